"""Looking at an autoencoder's folder before it is registered."""

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from maquette.bases.catalogue import BaseKind
from maquette.bases.folder import check_weights
from maquette.bases.look import CONFIG, expect
from maquette.core.basefolder import BrokenBase, base_sha256, read_config

INTO_LATENTS = "decoder.conv_in.weight"
"""The tensor whose second dimension is the number of latent channels."""
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
    expect(root, BaseKind.VAE)
    config_file = root / CONFIG
    config = read_config(config_file)
    channels = config.get("latent_channels", PUBLISHED_CHANNELS)
    if not isinstance(channels, int):
        raise BrokenBase(f"{config_file}: latent_channels must be a whole number, got {channels!r}")
    _check_channels(root, channels)
    return VaeFolder(
        path=root, family=_family(config.get("scaling_factor")), sha256=base_sha256(root), latent_channels=channels
    )


def _check_channels(root: Path, channels: int) -> None:
    tensors = check_weights(root)
    if INTO_LATENTS not in tensors:
        held = ", ".join(list(tensors)[:3])
        raise BrokenBase(f"{root}: expected an autoencoder's weights, among them {INTO_LATENTS}, found {held}, …")
    if (found := tensors[INTO_LATENTS].shape[1:2]) != (channels,):
        raise BrokenBase(
            f"{root}: expected weights for latents of {channels} channels, as {CONFIG} says, found {INTO_LATENTS} for"
            f" {found[0] if found else 'none'}"
        )


def _family(scale: object) -> str:
    return FAMILIES_OF_SCALES.get(scale, OTHERS) if isinstance(scale, float) else OTHERS
