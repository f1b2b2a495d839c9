"""A pass through the denoiser that a GPU plays again by itself.

A pass is thousands of small kernels. A GPU is done with each sooner than Python can name the next, and would wait for
most of a step. CUDA can record what it was asked to do, once for each shape of a batch, and do all of it at a word
(https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-graphs). A recording does the same work on the same
memory, so it is right only as long as nothing that it was made of moves.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

Pass: TypeAlias = Callable[..., torch.Tensor]
"""A function of tensors, or of structures of them: leaves gradients in parameters, and answers a loss."""

MOST = 16
"""Recordings that are kept. Batches of yet another shape are passed through the slow way: pictures of so many sizes,
each with few of its kind, gain little."""


class Recording(NamedTuple):
    """One shape's.

    Attributes:
        inputs: where it reads what it is given, and leaves the gradients of what asks for one.
        loss, gradients: where it leaves what came out, a gradient for each parameter or None.
    """

    graph: torch.cuda.CUDAGraph
    inputs: Sequence[torch.Tensor]
    loss: torch.Tensor
    gradients: Sequence[torch.Tensor | None]


class RecordedPass:
    """A pass that is recorded when a shape comes for the second time, and played from then on.

    It adds to gradients what the pass itself would add: to the parameters', and to those of whatever its arguments were
    computed from, as by a text encoder that trains.

    Args:
        function: the pass. It must decide nothing by the values of its tensors, draw nothing by chance, and copy
            nothing between host and device.
        parameters: of the pass itself; they must stay where they are.
    """

    def __init__(self, function: Pass, parameters: Sequence[torch.nn.Parameter]) -> None:
        self._function = function
        self._parameters = parameters
        self._met: set[object] = set()
        self._recordings: dict[object, Recording] = {}
        # Recordings are played one after the other, so one's memory serves all.
        self._memory = torch.cuda.graph_pool_handle()

    def __call__(self, *arguments: Any) -> torch.Tensor:
        """Carry out the pass; all tensors are on the device."""
        given, structure = tree_flatten(arguments)
        shape = (repr(structure), *((tensor.shape, tensor.dtype, tensor.requires_grad) for tensor in given))
        if shape not in self._recordings:
            if shape not in self._met or len(self._recordings) == MOST:
                # Libraries choose their kernels the first time, which can't be recorded.
                self._met.add(shape)
                return self._function(*arguments)
            self._recordings[shape] = self._record(given, structure)
        return self._play(self._recordings[shape], given)

    def _record(self, given: Sequence[torch.Tensor], structure: Any) -> Recording:
        """Nothing is computed by it: gradients stay what they are."""
        inputs = [tensor.detach().clone().requires_grad_(tensor.requires_grad) for tensor in given]
        before = [parameter.grad for parameter in self._parameters]
        self._set_gradients([None] * len(before))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory):
            loss = self._function(*tree_unflatten(inputs, structure))
        gradients = [parameter.grad for parameter in self._parameters]
        self._set_gradients(before)
        return Recording(graph, inputs, loss, gradients)

    def _play(self, recording: Recording, given: Sequence[torch.Tensor]) -> torch.Tensor:
        for place, tensor in zip(recording.inputs, given, strict=True):
            place.detach().copy_(tensor)
        pairs = list(zip(self._parameters, recording.gradients, strict=True))
        for parameter, gradient in pairs:
            # Of an earlier part of the same step, and about to be overwritten.
            if gradient is not None and parameter.grad is gradient:
                parameter.grad = gradient.clone()
        recording.graph.replay()
        for parameter, gradient in pairs:
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        asking = [number for number, tensor in enumerate(given) if tensor.requires_grad]
        if asking:
            torch.autograd.backward(
                [given[number] for number in asking], [recording.inputs[number].grad for number in asking]
            )
        return recording.loss.clone()

    def _set_gradients(self, gradients: Sequence[torch.Tensor | None]) -> None:
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
