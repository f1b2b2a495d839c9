"""Stable Diffusion 1.x and 2.x: what everyone may know of it, torch-free."""

from maquette.core.basefolder import BaseLayout, ComponentLayout
from maquette.core.specs import DIFFUSION_SETTINGS, FamilyDefaults
from maquette.families.lora_keys import ComponentKeys
from maquette.families.memory import MemoryModel, PartModel
from maquette.families.registry import FamilySpec

SPEC = FamilySpec(
    name="sd15",
    title="Stable Diffusion 1.x / 2.x",
    native_resolution=512,
    licence="Published bases come under CreativeML Open RAIL licences, whose use restrictions pass on to LoRAs.",
    defaults=FamilyDefaults(learning_rate=1e-4, lora_r=16, sample_steps=30, sample_guidance_scale=7.5),
    layout=BaseLayout(
        pipelines=frozenset({"StableDiffusionPipeline"}),
        components={
            "unet": ComponentLayout(),
            "vae": ComponentLayout(),
            "text_encoder": ComponentLayout(),
            "tokenizer": ComponentLayout("tokenizer_config.json", weights=False),
            "scheduler": ComponentLayout("scheduler_config.json", weights=False),
        },
    ),
    keys={
        "unet": ComponentKeys(kohya=("lora_unet",)),
        "text_encoder": ComponentKeys(kohya=("lora_te", "lora_te1"), level="text_model."),
    },
    # Parameters as the shapes of Stable Diffusion 1.5 say; activations as an H200 took them at 512 pixels in bfloat16,
    # batch 1 (benchmarks/results/train_loop_sd15_sd15_cuda.json).
    memory=MemoryModel(
        denoiser=PartModel(("unet",), 859_520_964),
        text_encoders=PartModel(("text_encoder",), 123_060_480),
        autoencoder=PartModel(("vae",), 83_653_863),
        lora_per_rank=898_176,
        text_encoder_lora_per_rank=73_728,
        activations=2_900,
        recomputed=900,
    ),
    pipeline="maquette.families.sd15.pipeline:Sd15Pipeline",
    objective="maquette.families.sd15.objective:Sd15Objective",
    adapters="maquette.families.sd15.adapters:Sd15Adapters",
    takes=DIFFUSION_SETTINGS,
)
