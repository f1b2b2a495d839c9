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
CHANNELS = ("latent_channels", "z_dim")
"""What diffusers' classes call their latents' channels."""
PUBLISHED_CHANNELS = 4
"""Of latents whose folder does not say how many they have, as diffusers reads it."""
PUBLISHED_SCALE = 0.18215
"""What diffusers multiplies latents with where the folder does not say."""


class VaeFolder(Struct, frozen=True):
    """A folder that can serve as an autoencoder.

    Attributes:
        path: absolute.
        family: of the bases that it belongs to; the first where several have such.
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
    family = _family(config_file, config, layouts)
    field = next((name for name in CHANNELS if name in config), CHANNELS[0])
    channels = config.get(field, PUBLISHED_CHANNELS)
    if not isinstance(channels, int):
        raise BrokenBase(f"{config_file}: {field} must be a whole number, got {channels!r}")
    _check_channels(root, channels)
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


def _family(config_file: Path, config: Mapping[str, object], layouts: Mapping[str, BaseLayout]) -> str:
    """By its class, and where several families have that, by the number that brings latents to unit variance: nothing
    else in the folder tells families apart.
    """
    kind, scale = str(config.get("_class_name")), config.get("scaling_factor", PUBLISHED_SCALE)
    scales = {family: layout.autoencoders[kind] for family, layout in layouts.items() if kind in layout.autoencoders}
    if not scales:
        classes = ", ".join(f"{one} ({family})" for family, layout in layouts.items() for one in layout.autoencoders)
        raise _unread(config_file, "an autoencoder of a class", classes, kind)
    for family, numbers in scales.items():
        if not numbers or scale in numbers:
            return family
    known = ", ".join(f"{one} ({family})" for family, numbers in scales.items() for one in numbers)
    raise _unread(config_file, "a scaling_factor of latents", known, scale)


def _unread(config_file: Path, what: str, known: str, found: object) -> BrokenBase:
    return BrokenBase(
        f"{config_file}: expected {what} that a family of this installation reads, {known}, found {found}; such an"
        " autoencoder is used only within its own base"
    )
