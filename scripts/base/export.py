"""Write the trained parts as one pipeline folder, in fp16."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from models import build_noise_scheduler

BASE_DIRECTORY = Path(__file__).parents[2] / "src/maquette/bases/maquette_tiny"


def export_pipeline(vae, unet, text_encoder, tokenizer, target: Path = BASE_DIRECTORY) -> int:
    """Replace the parts of the pipeline in `target`, leave its other files, and return the weights' size in bytes."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=build_noise_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(dtype=torch.float16)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".maquette-tiny-", dir=target.parent) as folder:
        pipeline.save_pretrained(folder)
        _load_text_encoder_in_fp32(Path(folder))
        for file in Path(folder).rglob("*"):
            file.chmod(0o755 if file.is_dir() else 0o644)
        for part in sorted(Path(folder).iterdir()):
            _replace(part, target / part.name)
    return sum(file.stat().st_size for file in target.rglob("*.safetensors"))


def _load_text_encoder_in_fp32(folder: Path) -> None:
    """Without this, a loader that names no dtype gets the text encoder in fp16 and the rest in fp32."""
    config_file = folder / "text_encoder/config.json"
    config = json.loads(config_file.read_text())
    config_file.write_text(json.dumps(config | {"dtype": "float32"}, indent=2, sort_keys=True) + "\n")


def _replace(part: Path, target: Path) -> None:
    """Put a file or folder in place; a reader sees the old one or the new one, at worst none for an instant."""
    if target.is_dir():
        retired = part.with_name(f"{part.name}.retired")
        target.rename(retired)
        part.rename(target)
        shutil.rmtree(retired)
    else:
        part.replace(target)
