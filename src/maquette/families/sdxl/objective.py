"""What training a Stable Diffusion XL base makes small."""

from maquette.core.specs import TrainingSettings
from maquette.families.objectives import NoisePrediction
from maquette.families.sdxl.pipeline import SdxlPipeline


class SdxlObjective(NoisePrediction):
    """The error of the noise or velocity that the base predicts."""

    def __init__(self, pipeline: SdxlPipeline, settings: TrainingSettings) -> None:
        super().__init__(pipeline, pipeline.parts.scheduler, settings)
