"""Bases on paper: the layout, the configurations and the tensors' names of real ones, and next to no weights."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

MODEL_INDEX = "model_index.json"
DECLARED: Mapping[str, object] = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "safety_checker": [None, None],
    "feature_extractor": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
WEIGHTS: Mapping[str, str] = {
    "text_encoder": "model.safetensors",
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}
CONFIGS: Mapping[str, str] = {
    **dict.fromkeys(WEIGHTS, "config.json"),
    "scheduler": "scheduler_config.json",
    "tokenizer": "tokenizer_config.json",
}
SIZES: Mapping[str, Mapping[str, object]] = {
    "unet": {"in_channels": 4, "block_out_channels": [8, 16], "cross_attention_dim": 12},
    "vae": {"latent_channels": 4, "block_out_channels": [8, 24]},
    "text_encoder": {"vocab_size": 20, "hidden_size": 12, "num_hidden_layers": 2},
}
"""What the configurations say, which the file's shapes fit."""
SHAPES: Mapping[str, tuple[int, ...]] = {
    "model.diffusion_model.input_blocks.0.0.weight": (8, 4, 3, 3),
    "model.diffusion_model.middle_block.0.in_layers.2.weight": (16, 16, 3, 3),
    "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight": (16, 12),
    "first_stage_model.decoder.conv_in.weight": (24, 4, 3, 3),
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (20, 12),
    "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.bias": (1,),
    "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc1.bias": (1,),
}
"""Of a Stable Diffusion 1.x checkpoint in one file."""


def paper_base(folder: Path, *, weights: bool = True) -> Path:
    """Write the folder of a Stable Diffusion 1.x base, its weights in the components' folders or none; answer it."""
    for name, config in CONFIGS.items():
        (folder / name).mkdir(parents=True)
        (folder / name / config).write_text(json.dumps({"component": name, **SIZES.get(name, {})}))
    for value, (name, file) in enumerate(WEIGHTS.items()):
        if weights:
            paper_weights(folder / name / file, value)
    (folder / MODEL_INDEX).write_text(json.dumps(DECLARED))
    return folder


def paper_weights(path: Path, value: int) -> None:
    """Write a whole safetensors file, others for other values."""
    save_file({"weight": np.full(4, value, np.uint8)}, path)


def paper_checkpoint(path: Path, value: int = 0, changes: Mapping[str, tuple[int, ...] | None] | None = None) -> Path:
    """Write a Stable Diffusion 1.x checkpoint in one file; answer it.

    Args:
        changes: shapes of tensors that have others, by the end of their name; None leaves one out.
    """
    shapes: dict[str, tuple[int, ...]] = dict(SHAPES)
    for end, shape in (changes or {}).items():
        (name,) = (name for name in SHAPES if name.endswith(end))
        if shape is None:
            del shapes[name]
        else:
            shapes[name] = shape
    save_file({name: np.full(shape, value, np.float16) for name, shape in shapes.items()}, path)
    return path
