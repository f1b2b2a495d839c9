"""What training a Stable Diffusion base makes small."""

from maquette.families.objectives import NoisePrediction
from maquette.families.sd15.pipeline import Sd15Pipeline


class Sd15Objective(NoisePrediction):
    """The error of the noise or velocity that the base predicts, at every timestep alike."""

    def __init__(self, pipeline: Sd15Pipeline) -> None:
        super().__init__(pipeline, pipeline.parts.scheduler)
