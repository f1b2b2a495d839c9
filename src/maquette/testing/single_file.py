"""Tiny bases in one file, as checkpoints were published before there were folders, and are for ComfyUI.

Such a file holds all weights, or the denoiser's alone, by the names that the first published code had for them. It
knows no configurations and no tokenizers: those lie beside it, as in the base's folder.
"""

import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors.torch import load_file, save_file

from maquette.families.flux1.spec import SPEC

Tensors: TypeAlias = dict[str, torch.Tensor]
Rules: TypeAlias = Iterable[tuple[str, str]]

FILE = "checkpoint.safetensors"
INSIDE_BLOCKS = (
    (r"(resnets\.\d+)\.norm1\.", r"\1.in_layers.0."),
    (r"(resnets\.\d+)\.conv1\.", r"\1.in_layers.2."),
    (r"(resnets\.\d+)\.time_emb_proj\.", r"\1.emb_layers.1."),
    (r"(resnets\.\d+)\.norm2\.", r"\1.out_layers.0."),
    (r"(resnets\.\d+)\.conv2\.", r"\1.out_layers.3."),
    (r"(resnets\.\d+)\.conv_shortcut\.", r"\1.skip_connection."),
)
AROUND_BLOCKS = (
    (r"^conv_in\.", "input_blocks.0.0."),
    (r"^conv_norm_out\.", "out.0."),
    (r"^conv_out\.", "out.2."),
    (r"^time_embedding\.linear_1\.", "time_embed.0."),
    (r"^time_embedding\.linear_2\.", "time_embed.2."),
    (r"^add_embedding\.linear_1\.", "label_emb.0.0."),
    (r"^add_embedding\.linear_2\.", "label_emb.0.2."),
    (r"^mid_block\.resnets\.0\.", "middle_block.0."),
    (r"^mid_block\.attentions\.0\.", "middle_block.1."),
    (r"^mid_block\.resnets\.1\.", "middle_block.2."),
)
AUTOENCODER = (
    (r"^encoder\.down_blocks\.(\d)\.resnets\.(\d)\.", r"encoder.down.\1.block.\2."),
    (r"^encoder\.down_blocks\.(\d)\.downsamplers\.0\.", r"encoder.down.\1.downsample."),
    *(
        rule
        for block in range(3)
        for rule in (
            (rf"^decoder\.up_blocks\.{block}\.resnets\.(\d)\.", rf"decoder.up.{2 - block}.block.\1."),
            (rf"^decoder\.up_blocks\.{block}\.upsamplers\.0\.", f"decoder.up.{2 - block}.upsample."),
        )
    ),
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
)
OPEN_CLIP = (
    (r"^embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^embeddings\.token_embedding\.", "token_embedding."),
    (r"^final_layer_norm\.", "ln_final."),
    (r"^encoder\.layers\.(\d+)\.layer_norm(\d)\.", r"transformer.resblocks.\1.ln_\2."),
    (r"^encoder\.layers\.(\d+)\.mlp\.fc1\.", r"transformer.resblocks.\1.mlp.c_fc."),
    (r"^encoder\.layers\.(\d+)\.mlp\.fc2\.", r"transformer.resblocks.\1.mlp.c_proj."),
    (r"^encoder\.layers\.(\d+)\.self_attn\.", r"transformer.resblocks.\1.attn."),
)
AROUND_FLUX_BLOCKS = (
    (r"^x_embedder\.", "img_in."),
    (r"^context_embedder\.", "txt_in."),
    (r"^time_text_embed\.timestep_embedder\.", "time_in."),
    (r"^time_text_embed\.text_embedder\.", "vector_in."),
    (r"^time_text_embed\.guidance_embedder\.", "guidance_in."),
    (r"^(\w+_in)\.linear_1\.", r"\1.in_layer."),
    (r"^(\w+_in)\.linear_2\.", r"\1.out_layer."),
    (r"^norm_out\.linear\.", "final_layer.adaLN_modulation.1."),
    (r"^proj_out\.", "final_layer.linear."),
)
FLUX_NORMS = (
    (r"^transformer_blocks\.(\d+)\.attn\.norm_(\w)\.weight$", r"double_blocks.\1.img_attn.norm.norm_\2"),
    (r"^transformer_blocks\.(\d+)\.attn\.norm_added_(\w)\.weight$", r"double_blocks.\1.txt_attn.norm.norm_\2"),
    (r"^single_transformer_blocks\.(\d+)\.attn\.norm_(\w)\.weight$", r"single_blocks.\1.norm.norm_\2"),
    (r"\.norm_q$", ".query_norm.scale"),
    (r"\.norm_k$", ".key_norm.scale"),
)


def sd15_in_one_file(base: Path, folder: Path) -> Path:
    """Write what `build_tiny_base` has built with its weights in one file; answer the folder."""
    return _write(
        base,
        folder,
        {
            "unet": lambda tensors: _unet(tensors, layers=1, blocks=2),
            "vae": lambda tensors: _renamed(tensors, AUTOENCODER, "first_stage_model."),
            "text_encoder": lambda tensors: _clip(tensors, "cond_stage_model.transformer."),
        },
    )


def sdxl_in_one_file(base: Path, folder: Path) -> Path:
    """Write what `build_tiny_sdxl` has built with its weights in one file; answer the folder."""
    return _write(
        base,
        folder,
        {
            "unet": lambda tensors: _unet(tensors, layers=2, blocks=3),
            "vae": lambda tensors: _renamed(tensors, AUTOENCODER, "first_stage_model."),
            "text_encoder": lambda tensors: _clip(tensors, "conditioner.embedders.0.transformer."),
            "text_encoder_2": lambda tensors: _open_clip(tensors, "conditioner.embedders.1.model."),
        },
    )


def flux1_in_one_file(base: Path, folder: Path) -> Path:
    """Write what `build_wide_flux1` has built with its weights in one file, as for ComfyUI; answer the folder."""
    return _write(
        base,
        folder,
        {
            "transformer": lambda tensors: _flux(tensors, "model.diffusion_model."),
            "vae": lambda tensors: _renamed(tensors, AUTOENCODER, "vae."),
            "text_encoder": lambda tensors: _clip(tensors, "text_encoders.clip_l.transformer."),
            "text_encoder_2": lambda tensors: _renamed(tensors, (), "text_encoders.t5xxl.transformer."),
        },
    )


def flux1_transformer_in_one_file(base: Path, folder: Path) -> Path:
    """Write what `build_wide_flux1` has built with its transformer alone in a file, as published; answer the folder."""
    return _write(base, folder, {"transformer": lambda tensors: _flux(tensors, "")})


def _write(base: Path, folder: Path, components: Mapping[str, Callable[[Tensors], Tensors]]) -> Path:
    files = {name: next((base / name).glob("*.safetensors")) for name in components}
    moved = {file.parent: [file.name] for file in files.values()}
    shutil.copytree(base, folder, ignore=lambda path, _: moved.get(Path(path), []))
    whole: Tensors = {}
    for name, convert in components.items():
        whole |= convert(load_file(files[name]))
    save_file({name: tensor.contiguous() for name, tensor in whole.items()}, folder / FILE)
    return folder


def _renamed(tensors: Tensors, rules: Rules, prefix: str) -> Tensors:
    return {prefix + _name(name, rules): tensor for name, tensor in tensors.items()}


def _name(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _unet(tensors: Tensors, *, layers: int, blocks: int) -> Tensors:
    """Blocks are numbered through, each layer one; what resizes between blocks is one more, or ends the last layer."""
    with_attention = {name.rpartition(".attentions.")[0] for name in tensors if ".attentions." in name}
    rules: list[tuple[str, str]] = [*INSIDE_BLOCKS, *AROUND_BLOCKS]
    for block in range(blocks):
        first = block * (layers + 1)
        place = 2 if f"up_blocks.{block}" in with_attention else 1
        rules += [
            (rf"^down_blocks\.{block}\.downsamplers\.0\.conv\.", f"input_blocks.{first + layers + 1}.0.op."),
            (rf"^up_blocks\.{block}\.upsamplers\.0\.conv\.", f"output_blocks.{first + layers}.{place}.conv."),
        ]
        for layer in range(layers + 1):
            for inner, kind in enumerate(("resnets", "attentions")):
                rules += [
                    (rf"^down_blocks\.{block}\.{kind}\.{layer}\.", f"input_blocks.{first + layer + 1}.{inner}."),
                    (rf"^up_blocks\.{block}\.{kind}\.{layer}\.", f"output_blocks.{first + layer}.{inner}."),
                ]
    return _renamed(tensors, rules, "model.diffusion_model.")


def _clip(tensors: Tensors, prefix: str) -> Tensors:
    return {f"{prefix}text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in tensors.items()}


def _open_clip(tensors: Tensors, prefix: str) -> Tensors:
    """OpenCLIP has queries, keys and values in one, and its projection the other way round."""
    own = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    projection = own.pop("text_projection.weight")
    for name in [name for name in own if ".q_proj." in name]:
        parts = [own.pop(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        own[name.replace(".q_proj.", ".in_proj_")] = torch.cat(parts)
    return _renamed(own, OPEN_CLIP, prefix) | {f"{prefix}text_projection": projection.T}


def _flux(tensors: Tensors, prefix: str) -> Tensors:
    """Layers that are one in the published model lie one after the other in it."""
    keys = SPEC.keys["transformer"]
    parts: dict[str, list[torch.Tensor]] = {}
    for name in sorted(tensors, key=lambda name: keys.place(name.rpartition(".")[0])):
        layer, _, kind = name.rpartition(".")
        published = _name(f"{keys.published(layer)}.{kind}", (*AROUND_FLUX_BLOCKS, *FLUX_NORMS))
        parts.setdefault(prefix + published, []).append(tensors[name])
    whole = {name: torch.cat(found) for name, found in parts.items()}
    # Its last layer says how to shift before it says how to scale.
    last = [name for name in whole if ".adaLN_modulation." in name]
    return whole | {name: torch.cat(whole[name].chunk(2)[::-1]) for name in last}
