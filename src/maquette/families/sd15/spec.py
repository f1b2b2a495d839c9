"""Stable Diffusion 1.x and 2.x: what everyone may know of it, torch-free."""

from maquette.core.basefolder import BaseLayout, ComponentLayout, Depth, FileLayout, Width
from maquette.core.embeddings import OF_ONE_ENCODER
from maquette.core.specs import DIFFUSION_SETTINGS, FamilyDefaults
from maquette.families.lora_keys import ComponentKeys
from maquette.families.memory import MemoryModel, PartModel
from maquette.families.registry import FamilySpec

UNET, CLIP, OPEN_CLIP = "model.diffusion_model.", "cond_stage_model.transformer.text_model.", "cond_stage_model.model."
VAE = "first_stage_model.decoder.conv_in.weight"
WIDTHS = (
    Width(f"{UNET}input_blocks.0.0.weight", 0, "unet", "block_out_channels.0"),
    Width(f"{UNET}input_blocks.0.0.weight", 1, "unet", "in_channels"),
    Width(f"{UNET}middle_block.0.in_layers.2.weight", 0, "unet", "block_out_channels.-1"),
    Width(f"{UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight", 1, "unet", "cross_attention_dim"),
    Width(VAE, 0, "vae", "block_out_channels.-1"),
    Width(VAE, 1, "vae", "latent_channels"),
)
FILES = (
    FileLayout(
        marks=frozenset({f"{UNET}input_blocks.0.0.weight", f"{CLIP}embeddings.token_embedding.weight"}),
        components={
            "unet": f"{UNET}input_blocks.0.0.weight",
            "vae": VAE,
            "text_encoder": f"{CLIP}embeddings.token_embedding.weight",
        },
        widths=(
            *WIDTHS,
            Width(f"{CLIP}embeddings.token_embedding.weight", 0, "text_encoder", "vocab_size"),
            Width(f"{CLIP}embeddings.token_embedding.weight", 1, "text_encoder", "hidden_size"),
        ),
        depths=(Depth(f"{CLIP}encoder.layers.", "text_encoder", "num_hidden_layers"),),
        published="stable-diffusion-v1-5/stable-diffusion-v1-5",
    ),
    # Of 2.x. Some of them predict noise and some velocities, which their files don't tell; and of the text encoder's
    # layers its configuration leaves the last one out.
    FileLayout(
        marks=frozenset({f"{UNET}input_blocks.0.0.weight", f"{OPEN_CLIP}token_embedding.weight"}),
        components={
            "unet": f"{UNET}input_blocks.0.0.weight",
            "vae": VAE,
            "text_encoder": f"{OPEN_CLIP}token_embedding.weight",
        },
        widths=(*WIDTHS, Width(f"{OPEN_CLIP}token_embedding.weight", 1, "text_encoder", "hidden_size")),
    ),
)
"""Of 1.x and 2.x, as the first published code named their parts."""

SPEC = FamilySpec(
    name="sd15",
    title="Stable Diffusion 1.x / 2.x",
    published_name="SD 1.5",
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
        files=FILES,
        # One is of those that have the other in their weights, as the bundled base.
        autoencoders={"AutoencoderKL": (0.18215, 1.0)},
        embeddings=OF_ONE_ENCODER,
    ),
    keys={
        "unet": ComponentKeys(kohya=("lora_unet",)),
        "text_encoder": ComponentKeys(kohya=("lora_te", "lora_te1"), level="text_model."),
    },
    # Parameters as the shapes of Stable Diffusion 1.5 say; activations as an H200 took them at 512 pixels in bfloat16,
    # batch 1 (benchmarks/results/train_loop_sd15_real_cuda.json), the text encoder's as `benchmarks/kept_numbers.py`
    # counts them.
    memory=MemoryModel(
        denoiser=PartModel(("unet",), 859_520_964),
        trained_encoders=PartModel(("text_encoder",), 123_060_480),
        autoencoder=PartModel(("vae",), 83_653_863),
        lora_per_rank=898_176,
        text_encoder_lora_per_rank=73_728,
        activations=2_900,
        recomputed=900,
        text_encoder_activations=17_400_000,
    ),
    pipeline="maquette.families.sd15.pipeline:Sd15Pipeline",
    objective="maquette.families.sd15.objective:Sd15Objective",
    adapters="maquette.families.sd15.adapters:Sd15Adapters",
    objective_settings=DIFFUSION_SETTINGS,
)
