"""Looking at an autoencoder's folder before it is registered."""

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from maquette.bases.catalogue import BaseKind
from maquette.bases.folder import check_weights
from maquette.bases.look import CONFIG, expect
from maquette.core.basefolder import BaseLayout, BrokenBase, base_sha256, read_config

INTO_LATENTS = "decoder.conv_in.weight"
"""The tensor whose second dimension is the number of latent channels."""
PUBLISHED_CHANNELS = 4
"""Of latents whose folder does not say how many they have, as diffusers reads it."""
PUBLISHED_SCALE = 0.18215
"""What diffusers multiplies latents with where the folder does not say."""


class VaeFolder(Struct, frozen=True):
    """A folder that can serve as an autoencoder.

    Attributes:
        path: absolute.
        family: of the bases that it belongs to; the first where several have the same latents.
        sha256: see `base_sha256`.
        latent_channels: a base whose own autoencoder has another number can't draw with it.
    """

    path: Path
    family: str
    sha256: str
    latent_channels: int


def inspect_vae(path: Path, layouts: Mapping[str, BaseLayout]) -> VaeFolder:
    """Check that a folder holds an autoencoder, as diffusers writes it, of a family with these layouts, and hash it.

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
    family = _family(config_file, config.get("scaling_factor", PUBLISHED_SCALE), layouts)
    return VaeFolder(path=root, family=family, sha256=base_sha256(root), latent_channels=channels)


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


def _family(config_file: Path, scale: object, layouts: Mapping[str, BaseLayout]) -> str:
    """By the number that brings latents to unit variance: nothing else in the folder tells families apart."""
    for family, layout in layouts.items():
        if scale in layout.latent_scales:
            return family
    known = ", ".join(f"{one} ({family})" for family, layout in layouts.items() for one in layout.latent_scales)
    raise BrokenBase(
        f"{config_file}: expected a scaling_factor of latents that a family of this installation reads, {known}, found"
        f" {scale}; such an autoencoder is used only within its own base"
    )
