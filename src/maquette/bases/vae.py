"""Looking at an autoencoder's folder before it is registered."""

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from maquette.bases.folder import check_weights
from maquette.core.basefolder import BrokenBase, base_sha256, read_config

AUTOENCODER = "AutoencoderKL"
PUBLISHED_CHANNELS = 4
"""Of latents whose folder does not say how many they have, as diffusers reads it."""
FAMILIES_OF_SCALES: Mapping[float, str] = {0.13025: "sdxl", 0.3611: "flux1"}
"""Families by the number that brings their latents to unit variance: nothing else in the folder tells them apart."""
OTHERS = "sd15"


class VaeFolder(Struct, frozen=True):
    """A folder that can serve as an autoencoder.

    Attributes:
        path: absolute.
        family: of the bases that it belongs to.
        sha256: see `base_sha256`.
        latent_channels: a base whose own autoencoder has another number can't draw with it.
    """

    path: Path
    family: str
    sha256: str
    latent_channels: int


def inspect_vae(path: Path) -> VaeFolder:
    """Check that a folder holds an autoencoder as diffusers writes it, and hash it.

    Raises:
        BrokenBase: it does not; the message names the file and the fix.
    """
    root = path.resolve()
    config_file = root / "config.json"
    config = read_config(config_file)
    if config.get("_class_name") != AUTOENCODER:
        raise BrokenBase(f"{config_file} is of the class {config.get('_class_name')!r}; a VAE is an {AUTOENCODER}")
    channels = config.get("latent_channels", PUBLISHED_CHANNELS)
    if not isinstance(channels, int):
        raise BrokenBase(f"{config_file}: latent_channels must be a whole number, got {channels!r}")
    check_weights(root)
    return VaeFolder(
        path=root, family=_family(config.get("scaling_factor")), sha256=base_sha256(root), latent_channels=channels
    )


def _family(scale: object) -> str:
    return FAMILIES_OF_SCALES.get(scale, OTHERS) if isinstance(scale, float) else OTHERS
