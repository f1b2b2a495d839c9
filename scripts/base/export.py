"""Write the trained parts as one pipeline folder, in fp16: python export.py --work-folder DIR [--target DIR]."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from latents import finished_vae
from models import build_noise_scheduler
from pool import scene_pool
from train_unet import POOL, SEED, Denoiser, caption_tokenizer
from training import load_checkpoint

BASE_DIRECTORY = Path(__file__).parents[2] / "src/maquette/bases/maquette_tiny"


def trained_pipeline(work_folder: Path) -> StableDiffusionPipeline:
    """Put the averaged weights of the last checkpoints together."""
    _, captions = scene_pool(work_folder, POOL, SEED)
    tokenizer = caption_tokenizer(captions)
    denoiser = Denoiser(tokenizer)
    if state := load_checkpoint(work_folder / "unet.pt"):
        denoiser.load_state_dict(state["averaged"])
    return StableDiffusionPipeline(
        vae=finished_vae(work_folder),
        unet=denoiser.unet,
        text_encoder=denoiser.text_encoder,
        tokenizer=tokenizer,
        scheduler=build_noise_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def export(pipeline: StableDiffusionPipeline, target: Path) -> int:
    """Replace the parts of the pipeline in `target`, leave its other files, and return the weights' size in bytes."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".maquette-tiny-", dir=target.parent) as folder:
        pipeline.to(dtype=torch.float16).save_pretrained(folder)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-folder", type=Path, required=True)
    parser.add_argument("--target", type=Path, default=BASE_DIRECTORY)
    arguments = parser.parse_args()
    size = export(trained_pipeline(arguments.work_folder), arguments.target)
    print(f"{size / 1e6:.1f} MB of weights in {arguments.target}")


if __name__ == "__main__":
    main()
