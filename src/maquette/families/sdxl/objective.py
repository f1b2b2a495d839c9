"""What training a Stable Diffusion XL base makes small."""

from maquette.families.objectives import NoisePrediction
from maquette.families.sdxl.pipeline import SdxlPipeline


class SdxlObjective(NoisePrediction):
    """The error of the noise or velocity that the base predicts, at every timestep alike."""

    def __init__(self, pipeline: SdxlPipeline) -> None:
        super().__init__(pipeline, pipeline.parts.scheduler)
