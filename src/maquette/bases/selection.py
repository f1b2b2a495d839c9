"""Which files of a repository a model needs.

Repositories hold the same weights several times: pickled, in half precision, in one file beside the components'
folders, and for other libraries. Of all this a base needs its pipeline's description, and of each component that is
loaded the configuration or tokenizer and one set of safetensors files.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePosixPath

from msgspec import Struct

from maquette.bases.folder import PICKLED, SHARD
from maquette.bases.hub import HubFile, Listing, Unobtainable
from maquette.bases.look import SAFETENSORS
from maquette.core.basefolder import MODEL_INDEX, SMALL_SUFFIXES, BaseLayout

SHARDS_INDEX = f"{SAFETENSORS}.index.json"
USUAL = ("diffusion_pytorch_model", "model")
"""What libraries call a component's weights."""
HALF = ("fp16", "bf16")
"""Variants that are taken where there are no others."""
_PART = r"(?:-\d{5}-of-\d{5})?"
_WEIGHTS = re.compile(rf"(?P<stem>[^.]+?){_PART}(?:\.(?P<variant>[^.]+?))?{_PART}\.safetensors")


class Wanted(Struct, frozen=True):
    """A file of a repository, and what it shall be called here."""

    file: HubFile
    name: str


def of_pipeline(listing: Listing) -> Wanted:
    """The file that says what a repository's components are.

    Raises:
        Unobtainable: there is none; the message names what may be meant instead.
    """
    if MODEL_INDEX in listing.files:
        return Wanted(listing.files[MODEL_INDEX], MODEL_INDEX)
    names = [name for name in listing.files if "/" not in name and name.endswith(SAFETENSORS)]
    files = [f"{listing.repository}/{listing.files[name].path}" for name in names]
    fix = f"add one of its files: {', '.join(files)}" if files else "it has no safetensors file beside it either"
    raise Unobtainable(f"{listing.repository} has no {MODEL_INDEX}, so it is no checkpoint's folder; {fix}")


def of_components(listing: Listing, layout: BaseLayout, elsewhere: Collection[str] = ()) -> list[Wanted]:
    """The files of a base's components.

    Args:
        elsewhere: components whose weights are had from elsewhere.

    Raises:
        Unobtainable: weights are pickled, or there are none.
    """
    wanted: list[Wanted] = []
    bare: list[str] = []
    for component, kept in layout.components.items():
        files = _directly_in(listing.files, component)
        wanted += [Wanted(file, f"{component}/{name}") for name, file in files.items() if is_small(name)]
        if kept.weights and component not in elsewhere:
            weights = of_weights(files)
            wanted += [Wanted(files[name], f"{component}/{usual}") for usual, name in weights.items()]
            if not weights:
                bare.append(component)
    if not bare:
        return wanted
    files = _directly_in(listing.files)
    whole = [name for name in files if name.endswith(SAFETENSORS)]
    # Weights that folders lack may be in the one file beside them.
    if elsewhere or len(whole) != 1:
        raise _no_weights(listing, bare[0], _directly_in(listing.files, bare[0]))
    return [*wanted, Wanted(files[whole[0]], whole[0])]


def of_embedding(listing: Listing) -> list[Wanted]:
    """The one file of an embedding.

    Raises:
        Unobtainable: there is none, or there are several.
    """
    files = _directly_in(listing.files)
    whole = [name for name in files if name.endswith(SAFETENSORS)]
    if not whole:
        raise _no_weights(listing, "", files)
    if len(whole) > 1:
        places = ", ".join(f"{listing.repository}/{files[name].path}" for name in whole)
        raise Unobtainable(f"{listing.repository} has several embeddings; add one of them: {places}")
    return [Wanted(files[whole[0]], whole[0])]


def of_folder(listing: Listing) -> list[Wanted]:
    """The files of one model's folder, such as an autoencoder's.

    Raises:
        Unobtainable: its weights are pickled, or there are none.
    """
    files = _directly_in(listing.files)
    weights = of_weights(files)
    if not weights:
        raise _no_weights(listing, "", files)
    small = [Wanted(file, name) for name, file in files.items() if is_small(name)]
    return small + [Wanted(files[name], usual) for usual, name in weights.items()]


def of_weights(names: Collection[str]) -> dict[str, str]:
    """The one set of weights to take of a component's files: what libraries look for, and what it is called there.

    It is the full precision where that is there, in one file rather than in several.
    """
    found = [(name, parts) for name in names if (parts := _WEIGHTS.fullmatch(name))]
    found = [(name, parts) for name, parts in found if parts["stem"] in USUAL] or found
    full = [name for name, parts in found if parts["variant"] is None]
    if whole := [name for name in full if not SHARD.search(name)]:
        return {name: name for name in whole}
    if full:
        return {name: name for name in (*full, *(name for name in names if name.endswith(SHARDS_INDEX)))}
    for half in HALF:
        for name, parts in found:
            if parts["variant"] == half and not SHARD.search(name):
                return {f"{parts['stem']}{SAFETENSORS}": name}
    return {}


def is_small(name: str) -> bool:
    """Whether a component's file is a configuration or a tokenizer's; what lists parts of weights is neither."""
    return PurePosixPath(name).suffix in SMALL_SUFFIXES and ".index." not in name


def _no_weights(listing: Listing, folder: str, names: Iterable[str]) -> Unobtainable:
    held = sorted(names)
    pickled = [name for name in held if any(PurePosixPath(name).match(pattern) for pattern in PICKLED)]
    where = f"{listing.repository}: {folder or 'it'} holds"
    if pickled:
        return Unobtainable(
            f"{where} pickled weights only ({', '.join(pickled)}), which can run anything when they are loaded; choose"
            " a revision or repository with safetensors"
        )
    return Unobtainable(f"{where} no safetensors weights to take, only {', '.join(held) or 'nothing'}")


def _directly_in(files: Mapping[str, HubFile], folder: str = "") -> dict[str, HubFile]:
    """A folder's own files by their names."""
    prefix = f"{folder}/" if folder else ""
    own = {name.removeprefix(prefix): file for name, file in files.items() if name.startswith(prefix)}
    return {name: file for name, file in own.items() if "/" not in name}
