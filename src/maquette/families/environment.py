"""What tensor libraries find around them: settings that they read when they are imported, and devices. Torch-free."""

import os
from importlib.metadata import version

LIBRARIES = ("maquette", "torch", "diffusers", "transformers")
"""What decides the bytes of a LoRA, and how a picture comes out."""
ENVIRONMENT = {
    # Everything is local; a library that would ask a hub should say so instead of waiting for a network.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    # Threads that wait for work sleep: spinning ones starve each other as soon as anything else runs on the cores.
    "OMP_WAIT_POLICY": "PASSIVE",
    # CUDA's matrix library works deterministically only with a workspace of fixed size.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}


class UnknownDevice(Exception):
    """There is no such device here; the message says what torch says of it."""


def library_versions() -> dict[str, str]:
    """Versions of what trains and draws."""
    return {name: version(name) for name in LIBRARIES}


def prepare_environment() -> None:
    """Set what is not set yet; to be called before torch, diffusers or transformers are imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
