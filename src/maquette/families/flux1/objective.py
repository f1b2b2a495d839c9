"""What training a FLUX.1 base makes small."""

from maquette.core.specs import TrainingSettings
from maquette.families.flux1.pipeline import Flux1Pipeline
from maquette.families.objectives import RectifiedFlow


class Flux1Objective(RectifiedFlow):
    """The error of the velocity that the base predicts, at levels of noise as it draws them."""

    def __init__(self, pipeline: Flux1Pipeline, _settings: TrainingSettings) -> None:
        super().__init__(pipeline, pipeline.samplers)
