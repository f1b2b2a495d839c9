"""FLUX.1: what everyone may know of it, torch-free."""

from maquette.core.basefolder import BaseLayout, ComponentLayout, Depth, FileLayout, Width
from maquette.core.specs import FamilyDefaults
from maquette.families.lora_keys import ComponentKeys
from maquette.families.memory import MemoryModel, PartModel
from maquette.families.registry import FamilySpec

PUBLISHED = tuple(
    (rf"^{block}\.(\d+)\.{layer}$", rf"{published}.\1.{name}")
    for block, published, names in (
        (
            "transformer_blocks",
            "double_blocks",
            {
                r"attn\.to_q": "img_attn.qkv",
                r"attn\.to_k": "img_attn.qkv",
                r"attn\.to_v": "img_attn.qkv",
                r"attn\.to_out\.0": "img_attn.proj",
                r"attn\.add_q_proj": "txt_attn.qkv",
                r"attn\.add_k_proj": "txt_attn.qkv",
                r"attn\.add_v_proj": "txt_attn.qkv",
                r"attn\.to_add_out": "txt_attn.proj",
                r"ff\.net\.0\.proj": "img_mlp.0",
                r"ff\.net\.2": "img_mlp.2",
                r"ff_context\.net\.0\.proj": "txt_mlp.0",
                r"ff_context\.net\.2": "txt_mlp.2",
                r"norm1\.linear": "img_mod.lin",
                r"norm1_context\.linear": "txt_mod.lin",
            },
        ),
        (
            "single_transformer_blocks",
            "single_blocks",
            {
                r"attn\.to_q": "linear1",
                r"attn\.to_k": "linear1",
                r"attn\.to_v": "linear1",
                r"proj_mlp": "linear1",
                r"proj_out": "linear2",
                r"norm\.linear": "modulation.lin",
            },
        ),
    )
    for layer, name in names.items()
)
"""The blocks' layers as the model was published, where queries, keys and values are one layer."""

CLIP, T5 = "text_encoders.clip_l.transformer.text_model.", "text_encoders.t5xxl.transformer."
VAE = "vae.decoder.conv_in.weight"


def _file(prefix: str, *, guided: bool) -> FileLayout:
    """A base in one file: the transformer, and for ComfyUI what is around it. FLUX.1 [schnell] takes no guidance."""
    marks = [f"{prefix}double_blocks.0.img_attn.qkv.weight", *([f"{prefix}guidance_in.in_layer.weight"] * guided)]
    return FileLayout(
        marks=frozenset(marks),
        components={
            "transformer": f"{prefix}double_blocks.0.img_attn.qkv.weight",
            "vae": VAE,
            "text_encoder": f"{CLIP}embeddings.token_embedding.weight",
            "text_encoder_2": f"{T5}shared.weight",
        },
        widths=(
            Width(f"{prefix}img_in.weight", 1, "transformer", "in_channels"),
            Width(f"{prefix}txt_in.weight", 1, "transformer", "joint_attention_dim"),
            Width(f"{prefix}vector_in.in_layer.weight", 1, "transformer", "pooled_projection_dim"),
            Width(VAE, 0, "vae", "block_out_channels.-1"),
            Width(VAE, 1, "vae", "latent_channels"),
            Width(f"{CLIP}embeddings.token_embedding.weight", 1, "text_encoder", "hidden_size"),
            Width(f"{T5}shared.weight", 1, "text_encoder_2", "d_model"),
        ),
        depths=(
            Depth(f"{prefix}double_blocks.", "transformer", "num_layers"),
            Depth(f"{prefix}single_blocks.", "transformer", "num_single_layers"),
            # One where it is there.
            Depth(f"{prefix}guidance_in.in_layer.weight", "transformer", "guidance_embeds"),
        ),
        published="black-forest-labs/FLUX.1-dev" if guided else "black-forest-labs/FLUX.1-schnell",
    )


SPEC = FamilySpec(
    name="flux1",
    title="FLUX.1",
    native_resolution=1024,
    licence="FLUX.1 [schnell] is Apache-2.0; FLUX.1 [dev] and its LoRAs are for non-commercial use unless licensed.",
    defaults=FamilyDefaults(learning_rate=1e-4, lora_r=16, sample_steps=28, sample_guidance_scale=3.5),
    layout=BaseLayout(
        pipelines=frozenset({"FluxPipeline"}),
        components={
            "transformer": ComponentLayout(),
            "vae": ComponentLayout(),
            "text_encoder": ComponentLayout(),
            "text_encoder_2": ComponentLayout(),
            "tokenizer": ComponentLayout("tokenizer_config.json", weights=False),
            "tokenizer_2": ComponentLayout("tokenizer_config.json", weights=False),
            "scheduler": ComponentLayout("scheduler_config.json", weights=False),
        },
        files=tuple(
            _file(prefix, guided=guided) for prefix in ("", "model.diffusion_model.") for guided in (True, False)
        ),
        autoencoders={"AutoencoderKL": (0.3611,)},
    ),
    keys={
        "transformer": ComponentKeys(kohya=("lora_unet", "lora_transformer"), renamed=PUBLISHED),
        "text_encoder": ComponentKeys(kohya=("lora_te1", "lora_te"), level="text_model."),
    },
    # Parameters as the shapes of FLUX.1 [dev] say; activations as an H200 took them at 512 pixels in bfloat16, batch 1,
    # where a prompt's tokens weigh most; recomputed and the text encoder's as `benchmarks/kept_numbers.py` counts them.
    memory=MemoryModel(
        denoiser=PartModel(("transformer",), 11_901_408_320),
        trained_encoders=PartModel(("text_encoder",), 123_060_480),
        frozen_encoders=PartModel(("text_encoder_2",), 4_762_310_656),
        autoencoder=PartModel(("vae",), 83_819_683),
        lora_per_rank=3_385_344,
        text_encoder_lora_per_rank=73_728,
        activations=20_000,
        recomputed=2_900,
        text_encoder_activations=17_400_000,
    ),
    pipeline="maquette.families.flux1.pipeline:Flux1Pipeline",
    objective="maquette.families.flux1.objective:Flux1Objective",
    adapters="maquette.families.flux1.adapters:Flux1Adapters",
)
