"""Prodigy, the optimiser that finds its learning rate.

Mishchenko & Defazio 2023, Prodigy: an expeditiously adaptive parameter-free learner, arXiv:2306.06101, algorithm 4.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch.nn import Parameter
from torch.optim import Optimizer

FIRST_DISTANCE = 1e-6
"""The estimate to begin with; the paper's d_0."""


class Prodigy(Optimizer):
    """Adam whose rate is `lr` times an estimate of how far the solution lies from where training began.

    As the paper's authors advise for diffusion models, Adam's bias correction is on, and a schedule's warm-up is left
    out of the estimate's weights.

    A group's entry `d` is the estimate, `numerator` what it is estimated from, `steps` how many were taken. `d` never
    falls. The other half of the estimate lies in each parameter's state: `s`, the weighted sum of gradients, beside
    `initial`, the value at the first step, and Adam's two moments.
    """

    NUMBERS = ("d", "numerator", "steps")
    """Entries of a group that change from step to step, besides `lr`."""

    def __init__(
        self,
        parameters: Iterable[Parameter],
        *,
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        for group in self.param_groups:
            group |= {"d": FIRST_DISTANCE, "numerator": 0.0, "steps": 0}

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take a step along the gradients of the parameters that have one."""
        loss = closure() if closure else None
        for group in self.param_groups:
            trained: list[torch.Tensor] = [parameter for parameter in group["params"] if parameter.grad is not None]
            if trained and group["lr"] > 0:
                self._step_group(group, trained)
        return loss

    def _step_group(self, group: dict[str, Any], trained: list[torch.Tensor]) -> None:
        first, second = group["betas"]
        decay, d = math.sqrt(second), group["d"]
        states = [self._state_of(parameter) for parameter in trained]
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        means, squares, sums = ([state[entry] for state in states] for entry in ("exp_avg", "exp_avg_sq", "s"))
        moved = torch._foreach_sub([state["initial"] for state in states], trained)

        group["steps"] += 1
        correction = math.sqrt(1 - second ** group["steps"]) / (1 - first ** group["steps"])
        rate = d * group["lr"] * correction
        along = torch.cat([product.flatten() for product in torch._foreach_mul(gradients, moved)]).sum()

        torch._foreach_mul_(means, first)
        torch._foreach_add_(means, gradients, alpha=d * (1 - first))
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, gradients, gradients, value=d * d * (1 - second))
        torch._foreach_mul_(sums, decay)
        # Without the schedule's factor, see the class: steps that warm up say as much of the distance as others.
        torch._foreach_add_(sums, gradients, alpha=d / FIRST_DISTANCE * d)

        # The one time that a step waits for its device.
        moved_along, denominator = torch.stack([along, torch.stack(torch._foreach_norm(sums, 1)).sum()]).tolist()
        group["numerator"] = decay * group["numerator"] + d / FIRST_DISTANCE * rate * moved_along
        if denominator == 0:
            return
        group["d"] = max(d, group["numerator"] / denominator)
        spread = torch._foreach_sqrt(squares)
        torch._foreach_add_(spread, group["d"] * group["eps"])
        torch._foreach_mul_(trained, 1 - rate * group["weight_decay"])
        torch._foreach_addcdiv_(trained, means, spread, value=-rate)

    def _state_of(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        state = self.state[parameter]
        if not state:
            state["initial"] = parameter.detach().clone()
            for entry in ("exp_avg", "exp_avg_sq", "s"):
                state[entry] = torch.zeros_like(parameter)
        return state
