"""What every stage of a run shares."""

from dataclasses import dataclass

from maquette.core.rundir import RunDirectory, RunSpec
from maquette.core.specs import TrainingSpec
from maquette.trainer.reporter import Reporter
from maquette.trainer.supervision import Supervision


@dataclass(frozen=True)
class Attempt:
    """One attempt: where it works, what it is told, whom it listens to, whom it tells."""

    directory: RunDirectory
    spec: RunSpec
    supervision: Supervision
    reporter: Reporter

    @property
    def training(self) -> TrainingSpec:
        """What decides the LoRA's bytes."""
        return self.spec.training
