"""Where a LoRA is put on a FLUX.1 base."""

from maquette.families.adapters import CLIP_TARGETS, Component, LoraAdapters
from maquette.families.flux1.pipeline import Flux1Pipeline
from maquette.families.flux1.spec import SPEC

TRANSFORMER_TARGETS = (
    *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
    *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
    *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
    "proj_mlp",
)
"""Attention and feed-forward of pictures and words. `proj_out` of the single blocks is left out: the last layer of all
has that name too."""


class Flux1Adapters(LoraAdapters):
    """The LoRAs of one FLUX.1 base. T5 never has one: no program would load it."""

    def __init__(self, pipeline: Flux1Pipeline) -> None:
        super().__init__(
            SPEC.keys,
            {
                "transformer": Component(pipeline.transformer, TRANSFORMER_TARGETS),
                "text_encoder": Component(pipeline.text_encoder, CLIP_TARGETS),
            },
        )
