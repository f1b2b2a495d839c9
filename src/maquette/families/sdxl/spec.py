"""Stable Diffusion XL: what everyone may know of it, torch-free."""

from maquette.core.basefolder import BaseLayout, ComponentLayout, Depth, FileLayout, Width
from maquette.core.embeddings import OF_TWO_ENCODERS
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


UNET, VAE = "model.diffusion_model.", "first_stage_model.decoder.conv_in.weight"
CLIP, OPEN_CLIP = "conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model."


def _file(*marks: str, published: str | None = None) -> FileLayout:
    """A base in one file, as the first published code named its parts."""
    components = {
        "unet": f"{UNET}input_blocks.0.0.weight",
        "vae": VAE,
        "text_encoder": f"{CLIP}embeddings.token_embedding.weight",
        "text_encoder_2": f"{OPEN_CLIP}token_embedding.weight",
    }
    return FileLayout(
        marks=frozenset({components["unet"], components["text_encoder"], components["text_encoder_2"], *marks}),
        components=components,
        widths=(
            Width(f"{UNET}input_blocks.0.0.weight", 0, "unet", "block_out_channels.0"),
            Width(f"{UNET}input_blocks.0.0.weight", 1, "unet", "in_channels"),
            Width(f"{UNET}middle_block.0.in_layers.2.weight", 0, "unet", "block_out_channels.-1"),
            Width(f"{UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight", 1, "unet", "cross_attention_dim"),
            Width(f"{UNET}label_emb.0.0.weight", 1, "unet", "projection_class_embeddings_input_dim"),
            Width(VAE, 0, "vae", "block_out_channels.-1"),
            Width(VAE, 1, "vae", "latent_channels"),
            Width(f"{CLIP}embeddings.token_embedding.weight", 0, "text_encoder", "vocab_size"),
            Width(f"{CLIP}embeddings.token_embedding.weight", 1, "text_encoder", "hidden_size"),
            Width(f"{OPEN_CLIP}token_embedding.weight", 0, "text_encoder_2", "vocab_size"),
            Width(f"{OPEN_CLIP}token_embedding.weight", 1, "text_encoder_2", "hidden_size"),
        ),
        depths=(
            Depth(f"{UNET}middle_block.1.transformer_blocks.", "unet", "transformer_layers_per_block.-1"),
            Depth(f"{CLIP}encoder.layers.", "text_encoder", "num_hidden_layers"),
            Depth(f"{OPEN_CLIP}transformer.resblocks.", "text_encoder_2", "num_hidden_layers"),
        ),
        published=published,
    )


SPEC = FamilySpec(
    name="sdxl",
    title="Stable Diffusion XL",
    published_name="SDXL 1.0",
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
        # Those that predict velocities say so by a tensor of this name, and nothing in them says how else they differ.
        files=(_file("v_pred"), _file(published="stabilityai/stable-diffusion-xl-base-1.0")),
        autoencoders={"AutoencoderKL": (0.13025,)},
        embeddings=OF_TWO_ENCODERS,
    ),
    keys={
        "unet": ComponentKeys(kohya=("lora_unet",), renamed=_published_blocks()),
        "text_encoder": ComponentKeys(kohya=("lora_te1",), level="text_model."),
        "text_encoder_2": ComponentKeys(kohya=("lora_te2",), level="text_model."),
    },
    # Parameters as the shapes of Stable Diffusion XL 1.0 say; activations as an H200 took them at 1024 pixels in
    # bfloat16, batch 1 (benchmarks/results/train_loop_sdxl_real_cuda.json), recomputed and the text encoders' as
    # `benchmarks/kept_numbers.py` counts them.
    memory=MemoryModel(
        denoiser=PartModel(("unet",), 2_567_463_684),
        trained_encoders=PartModel(("text_encoder", "text_encoder_2"), 817_720_320),
        autoencoder=PartModel(("vae",), 83_653_863),
        lora_per_rank=2_616_320,
        text_encoder_lora_per_rank=395_264,
        activations=4_200,
        recomputed=650,
        text_encoder_activations=74_200_000,
    ),
    pipeline="maquette.families.sdxl.pipeline:SdxlPipeline",
    objective="maquette.families.sdxl.objective:SdxlObjective",
    adapters="maquette.families.sdxl.adapters:SdxlAdapters",
    objective_settings=DIFFUSION_SETTINGS,
)
