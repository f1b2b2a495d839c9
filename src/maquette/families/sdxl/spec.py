"""Stable Diffusion XL: what everyone may know of it, torch-free."""

from maquette.core.basefolder import BaseLayout, ComponentLayout
from maquette.core.specs import DIFFUSION_SETTINGS, FamilyDefaults
from maquette.families.lora_keys import ComponentKeys
from maquette.families.memory import MemoryModel, PartModel
from maquette.families.registry import FamilySpec

LAYERS = 2
"""Layers of a block on the way down; one more on the way up."""
BLOCKS = 3


def _published_blocks() -> tuple[tuple[str, str], ...]:
    """The UNet's blocks as the model was published: numbered through, with the resizing between them counted in."""
    down = [
        (rf"^down_blocks\.{block}\.{kind}\.{layer}\.", f"input_blocks.{block * (LAYERS + 1) + layer + 1}.{place}.")
        for block in range(BLOCKS)
        for layer in range(LAYERS)
        for place, kind in enumerate(("resnets", "attentions"))
    ]
    up = [
        (rf"^up_blocks\.{block}\.{kind}\.{layer}\.", f"output_blocks.{block * (LAYERS + 1) + layer}.{place}.")
        for block in range(BLOCKS)
        for layer in range(LAYERS + 1)
        for place, kind in enumerate(("resnets", "attentions"))
    ]
    middle = [
        (r"^mid_block\.resnets\.0\.", "middle_block.0."),
        (r"^mid_block\.attentions\.0\.", "middle_block.1."),
        (r"^mid_block\.resnets\.1\.", "middle_block.2."),
    ]
    resizing = [
        rule
        for block in range(BLOCKS - 1)
        for last in [(block + 1) * (LAYERS + 1)]
        for rule in (
            (rf"^down_blocks\.{block}\.downsamplers\.0\.conv$", f"input_blocks.{last}.0.op"),
            (rf"^up_blocks\.{block}\.upsamplers\.0\.conv$", f"output_blocks.{last - 1}.2.conv"),
        )
    ]
    inside = [
        (r"\.conv1$", ".in_layers.2"),
        (r"\.conv2$", ".out_layers.3"),
        (r"\.time_emb_proj$", ".emb_layers.1"),
        (r"\.conv_shortcut$", ".skip_connection"),
    ]
    return (*down, *middle, *up, *resizing, *inside)


SPEC = FamilySpec(
    name="sdxl",
    title="Stable Diffusion XL",
    native_resolution=1024,
    licence="Published bases come under CreativeML Open RAIL++-M licences, whose use restrictions pass on to LoRAs.",
    defaults=FamilyDefaults(learning_rate=1e-4, lora_r=16, sample_steps=30, sample_guidance_scale=5.0),
    layout=BaseLayout(
        pipelines=frozenset({"StableDiffusionXLPipeline"}),
        components={
            "unet": ComponentLayout(),
            "vae": ComponentLayout(),
            "text_encoder": ComponentLayout(),
            "text_encoder_2": ComponentLayout(),
            "tokenizer": ComponentLayout("tokenizer_config.json", weights=False),
            "tokenizer_2": ComponentLayout("tokenizer_config.json", weights=False),
            "scheduler": ComponentLayout("scheduler_config.json", weights=False),
        },
    ),
    keys={
        "unet": ComponentKeys(kohya=("lora_unet",), renamed=_published_blocks()),
        "text_encoder": ComponentKeys(kohya=("lora_te1",), level="text_model."),
        "text_encoder_2": ComponentKeys(kohya=("lora_te2",), level="text_model."),
    },
    # Parameters as the shapes of Stable Diffusion XL 1.0 say; activations as `benchmarks/kept_numbers.py` counts them.
    memory=MemoryModel(
        denoiser=PartModel(("unet",), 2_567_463_684),
        text_encoders=PartModel(("text_encoder", "text_encoder_2"), 817_720_320),
        autoencoder=PartModel(("vae",), 83_653_863),
        lora_per_rank=2_616_320,
        text_encoder_lora_per_rank=401_408,
        activations=5_200,
        recomputed=650,
    ),
    pipeline="maquette.families.sdxl.pipeline:SdxlPipeline",
    objective="maquette.families.sdxl.objective:SdxlObjective",
    adapters="maquette.families.sdxl.adapters:SdxlAdapters",
    takes=DIFFUSION_SETTINGS,
)
