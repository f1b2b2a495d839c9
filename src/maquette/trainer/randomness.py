"""Every random source of a run, each on its own stream, saved and restored together."""

import hashlib

import torch

from maquette.trainer.data import Shuffle


def derive(seed: int, purpose: str) -> int:
    """A seed for one purpose, so that drawing more for one purpose shifts no other."""
    digest = hashlib.sha256(f"{seed}:{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str) -> torch.Generator:
    """A random source on the CPU for one purpose."""
    return torch.Generator().manual_seed(derive(seed, purpose))


class Randomness:
    """The sources that training draws from, step by step.

    Attributes:
        noise: of the autoencoder's samples, the added noise and the timesteps.
        instances, classes: the order of the pictures and of the generated class pictures.
    """

    def __init__(self, seed: int, instances: int, classes: int, device: torch.device) -> None:
        self.noise = generator(seed, "noise")
        self.instances = Shuffle(instances, generator(seed, "instances"))
        self.classes = Shuffle(classes, generator(seed, "classes"))
        self.device = device
        # The global source, for what draws from it inside libraries: a LoRA's first values, dropout.
        torch.manual_seed(derive(seed, "global"))

    def tensors(self) -> dict[str, torch.Tensor]:
        """The state of every source."""
        state = {"noise": self.noise.get_state(), "global": torch.get_rng_state()}
        for name, shuffle in self._shuffles().items():
            state[f"{name}.generator"] = shuffle.generator.get_state()
            state[f"{name}.waiting"] = torch.tensor(shuffle.waiting, dtype=torch.int64)
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from `tensors()`."""
        self.noise.set_state(state["noise"])
        torch.set_rng_state(state["global"])
        for name, shuffle in self._shuffles().items():
            shuffle.generator.set_state(state[f"{name}.generator"])
            shuffle.waiting = state[f"{name}.waiting"].tolist()
        if self.device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], self.device)

    def _shuffles(self) -> dict[str, Shuffle]:
        return {"instances": self.instances, "classes": self.classes}
