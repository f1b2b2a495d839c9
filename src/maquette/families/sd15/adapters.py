"""Where a LoRA is put on a Stable Diffusion base."""

from maquette.families.adapters import CLIP_TARGETS, Component, DiffusionAdapters
from maquette.families.sd15.pipeline import Sd15Pipeline
from maquette.families.sd15.spec import SPEC

UNET_TARGETS = (
    *("to_q", "to_k", "to_v", "to_out.0"),
    *("ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut"),
)
"""Attention, feed-forward and the residual blocks' convolutions.

Attention alone learns how words steer what the base can draw already; shapes it has never drawn, such as a small
base's unseen character, need the layers that draw as well (the field calls such a LoRA LoCon).
"""


class Sd15Adapters(DiffusionAdapters):
    """The LoRAs of one Stable Diffusion base."""

    def __init__(self, pipeline: Sd15Pipeline) -> None:
        super().__init__(
            SPEC.keys,
            {
                "unet": Component(pipeline.unet, UNET_TARGETS),
                "text_encoder": Component(pipeline.text_encoder, CLIP_TARGETS),
            },
            pipeline.samplers,
        )
