"""A stand-in for CUDA graphs where there is no such device: what is captured is noted, and carried out when replayed.

As with the real ones Python takes no part in a replay, all is read and written where it lay, nothing may be copied to
the host meanwhile, and what was there before a capture is there after it.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ADVICE = "\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1"
"""Lines of it end what CUDA says."""


class Operation(NamedTuple):
    """An operation with what it was given and where its results are."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    results: list[torch.Tensor]


class Tape:
    """Stands in for `torch.cuda.CUDAGraph`."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []

    @torch.no_grad()
    def replay(self) -> None:
        """Carry out the operations again."""
        for operation in self.operations:
            again = _tensors(operation.function(*operation.arguments, **operation.options))
            for place, result in zip(operation.results, again, strict=True):
                if place.data_ptr() != result.data_ptr():
                    place.copy_(result)


class _Taping(TorchDispatchMode):
    """Carries out what is captured, since what comes next needs results; `undo` puts back what it wrote to."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self._tape = tape
        self._before = list[tuple[torch.Tensor, torch.Tensor]]()
        self.failed = False

    @torch.no_grad()
    def undo(self) -> None:
        for tensor, values in reversed(self._before):
            tensor.copy_(values)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self.failed = True
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing{ADVICE}")
        for written, value in zip(func._schema.arguments, args, strict=False):
            if written.is_write and isinstance(value, torch.Tensor):
                self._before.append((value.detach(), value.detach().clone()))
        results = func(*args, **(kwargs or {}))
        self._tape.operations.append(Operation(func, tree_map(_bare, args), kwargs or {}, _tensors(results)))
        return results


@contextmanager
def taping(tape: Tape, pool: object) -> Generator[None]:  # noqa: ARG001 - the real one's argument
    """Stands in for `torch.cuda.graph`."""
    mode = _Taping(tape)
    try:
        with mode:
            yield
    finally:
        mode.undo()
        if mode.failed:
            raise RuntimeError(f"CUDA error: operation failed due to a previous error during capture{ADVICE}")


def _bare(value: Any) -> Any:
    return value.detach() if isinstance(value, torch.Tensor) else value


def _tensors(results: Any) -> list[torch.Tensor]:
    return [result.detach() for result in tree_leaves(results) if isinstance(result, torch.Tensor)]
