"""What training a Stable Diffusion base makes small."""

from maquette.core.specs import TrainingSettings
from maquette.families.objectives import NoisePrediction
from maquette.families.sd15.pipeline import Sd15Pipeline


class Sd15Objective(NoisePrediction):
    """The error of the noise or velocity that the base predicts."""

    def __init__(self, pipeline: Sd15Pipeline, settings: TrainingSettings) -> None:
        super().__init__(pipeline, pipeline.parts.scheduler, settings)
