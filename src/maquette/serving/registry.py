"""The pools by name. Other packages add theirs through the entry point group `maquette.pools`."""

from collections.abc import Callable

from maquette.core.registry import Registry
from maquette.serving.base import Pool

POOLS = Registry("pool", "maquette.pools", {"local": "maquette.serving.local:LocalPool"})


def pool_factory(name: str) -> Callable[..., Pool]:
    """What makes the pool of this name; every one takes `(root, storage, *, devices, settings)`.

    Raises:
        UnknownName: no pool has this name.
    """
    return POOLS.load(name)
