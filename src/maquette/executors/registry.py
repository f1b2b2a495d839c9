"""The executors by name. Other packages add theirs through the entry point group `maquette.executors`."""

from collections.abc import Callable

from maquette.core.registry import Registry
from maquette.executors.base import Executor

EXECUTORS = Registry("executor", "maquette.executors", {"local": "maquette.executors.local:LocalExecutor"})


def executor_factory(name: str) -> Callable[..., Executor]:
    """What makes the executor of this name; every one takes `(root, storage, *, devices, settings)`.

    Raises:
        UnknownName: no executor has this name.
    """
    return EXECUTORS.load(name)
