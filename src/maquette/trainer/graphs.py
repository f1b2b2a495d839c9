"""Forward and backward passes as CUDA graphs: captured once for each shape of a batch, then replayed.

A pass launches thousands of small kernels, and Python launches them more slowly than a fast GPU runs them. A CUDA graph
(https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-graphs) launches them all at once. It does the same work
on the same memory each time, so it is right only as long as nothing that it works on moves, and whatever changes from
step to step comes in as a tensor.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from maquette.families.out_of_memory import is_out_of_memory

ForwardBackward: TypeAlias = Callable[..., torch.Tensor]
"""A function of tensors, or of structures of them, that adds gradients to parameters and answers a loss."""

MAX_GRAPHS = 16
"""Batches of yet another shape are launched kernel by kernel: where pictures have so many sizes, few share one, and a
graph gains little."""
OUTSIDE = "is computed outside it, and comes in as a tensor (docs/families.md)"


class NotCapturable(RuntimeError):
    """A pass does what a CUDA graph can't hold; the message says what CUDA says of it."""


class Graph(NamedTuple):
    """One shape's.

    Attributes:
        inputs: where it reads its arguments, and leaves the gradients of those that need one.
        loss: where it leaves the loss.
    """

    graph: torch.cuda.CUDAGraph
    inputs: Sequence[torch.Tensor]
    loss: torch.Tensor


class GraphedPass:
    """A pass that is captured when a shape comes for the second time, and replayed from then on.

    It adds to gradients what the pass itself would add: to the parameters', and to those of whatever its arguments were
    computed from, as by a text encoder that trains.

    Args:
        function: the pass. Python carries it out twice for each shape and never again: it must not depend on tensors'
            values or on anything that changes but its arguments, draw nothing by chance, and copy nothing from or to
            the host.
        parameters: of which gradients are wanted; they must stay where they are.
    """

    def __init__(self, function: ForwardBackward, parameters: Sequence[torch.nn.Parameter]) -> None:
        self._function = function
        self._parameters = parameters
        # Of those that the pass reaches; others have none, as without a graph, so that no optimiser moves them.
        self._gradients: dict[torch.nn.Parameter, torch.Tensor] = {}
        self._seen: set[object] = set()
        self._graphs: dict[object, Graph] = {}
        # Graphs are replayed one after the other, so they share what memory they need.
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, *arguments: Any) -> torch.Tensor:
        """Carry out the pass; all tensors are on the device.

        Raises:
            NotCapturable: see there.
            torch.OutOfMemoryError: memory ran out.
        """
        given, structure = tree_flatten(arguments)
        shape = (repr(structure), *((tensor.shape, tensor.dtype, tensor.requires_grad) for tensor in given))
        if shape not in self._graphs:
            if shape not in self._seen or len(self._graphs) == MAX_GRAPHS:
                # Libraries choose their kernels the first time, which can't be captured.
                self._seen.add(shape)
                loss = self._function(*arguments)
                self._place_gradients()
                return loss
            self._place_gradients()
            self._graphs[shape] = self._capture(given, structure)
        self._place_gradients()
        return self._replay(self._graphs[shape], given)

    def _place_gradients(self) -> None:
        """Have each gradient where graphs add to it, with the value that it has: the first place that it was in."""
        empty = list[torch.Tensor]()
        for parameter in self._parameters:
            gradient = parameter.grad
            if gradient is not None:
                place = self._gradients.setdefault(parameter, gradient)
                if place is not gradient:
                    place.copy_(gradient)
            elif parameter in self._gradients:
                place = self._gradients[parameter]
                empty.append(place)
            else:
                continue
            parameter.grad = place
        if empty:
            torch._foreach_zero_(empty)

    def _capture(self, given: Sequence[torch.Tensor], structure: Any) -> Graph:
        """Nothing is computed by it, and no gradient changes."""
        inputs = [tensor.detach().clone().requires_grad_(tensor.requires_grad) for tensor in given]
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                loss = self._function(*tree_unflatten(inputs, structure))
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise torch.OutOfMemoryError(f"while a CUDA graph was captured: {error}") from error
            raise NotCapturable(
                f"a forward and backward pass can't be captured as a CUDA graph ({_cause(error)}); what it takes from"
                f" the host, decides by tensors' values or draws by chance {OUTSIDE}"
            ) from error
        return Graph(graph, inputs, loss)

    def _replay(self, captured: Graph, given: Sequence[torch.Tensor]) -> torch.Tensor:
        for place, tensor in zip(captured.inputs, given, strict=True):
            place.detach().copy_(tensor)
        # A replay that does nothing must not pass for a step.
        captured.loss.fill_(torch.nan)
        captured.graph.replay()
        needing = [number for number, tensor in enumerate(given) if tensor.requires_grad]
        if needing:
            torch.autograd.backward(
                [given[number] for number in needing], [captured.inputs[number].grad for number in needing]
            )
        return captured.loss.clone()


def _cause(error: BaseException) -> str:
    """What went wrong first, in a line: of what is left half captured CUDA says no more than that something did."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).partition("\n")[0]
