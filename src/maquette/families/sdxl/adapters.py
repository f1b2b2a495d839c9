"""Where a LoRA is put on a Stable Diffusion XL base."""

from maquette.families.adapters import CLIP_TARGETS, Component, DiffusionAdapters
from maquette.families.sdxl.pipeline import SdxlPipeline
from maquette.families.sdxl.spec import SPEC

UNET_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")
"""Attention and feed-forward: the UNet is large enough to draw new shapes by what they make of its convolutions."""


class SdxlAdapters(DiffusionAdapters):
    """The LoRAs of one Stable Diffusion XL base.

    The UNet hears the first text encoder's layer before the last: a LoRA on the last would never learn anything.
    """

    def __init__(self, pipeline: SdxlPipeline) -> None:
        first, second = pipeline.text_encoders
        heard = [
            f"{layer}.self_attn.{end}" for layer in range(first.config.num_hidden_layers - 1) for end in CLIP_TARGETS
        ]
        super().__init__(
            SPEC.keys,
            {
                "unet": Component(pipeline.unet, UNET_TARGETS),
                "text_encoder": Component(first, heard),
                "text_encoder_2": Component(second, CLIP_TARGETS),
            },
            pipeline.samplers,
        )
