"""Which tensors of a textual inversion's file are its vectors (Gal et al. 2022): writers call them differently."""

from collections.abc import Iterable

VECTORS = "emb_params"
"""In files of the AUTOMATIC1111 web interface."""
FLATTENED = "string_to_param"
"""Before a dot and the placeholder, as flattened from the older pickled form."""
OF_ONE_ENCODER = (VECTORS,)
"""Of families that have one text encoder; other names are read as well."""
OF_TWO_ENCODERS = ("clip_l", "clip_g")
"""Of families that have two text encoders."""


def vector_names(names: Iterable[str]) -> list[str]:
    """The tensors that may be vectors, among all of a file: those known by name, else all; a good file has one.

    A file for two text encoders has two.
    """
    every = list(names)
    if set(OF_TWO_ENCODERS) <= set(every):
        return list(OF_TWO_ENCODERS)
    return [name for name in every if name == VECTORS or name.split(".")[0] == FLATTENED] or every
