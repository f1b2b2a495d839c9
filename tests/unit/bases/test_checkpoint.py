"""Which family a checkpoint in one file is of, as such files are published: told from their tensors' names alone."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from maquette.bases.checkpoint import recognise
from maquette.core.basefolder import BrokenBase
from maquette.families.registry import layouts

UNET = "model.diffusion_model.input_blocks.0.0.weight"
VAE = "first_stage_model.decoder.conv_in.weight"
CLIP = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
OPEN_CLIP = "cond_stage_model.model.token_embedding.weight"
CLIP_OF_TWO = "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight"
OPEN_CLIP_OF_TWO = "conditioner.embedders.1.model.token_embedding.weight"
BLOCK, GUIDANCE = "double_blocks.0.img_attn.qkv.weight", "guidance_in.in_layer.weight"
SD1 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
XL = "stabilityai/stable-diffusion-xl-base-1.0"
DEV, SCHNELL = "black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-schnell"


def written(path: Path, *names: str) -> Path:
    save_file({name: np.zeros(1, np.float16) for name in names}, path)
    return path


@pytest.mark.parametrize(
    ("names", "family", "components", "published"),
    [
        ([UNET, VAE, CLIP], "sd15", {"unet", "vae", "text_encoder"}, SD1),
        ([UNET, CLIP], "sd15", {"unet", "text_encoder"}, SD1),
        ([UNET, VAE, OPEN_CLIP], "sd15", {"unet", "vae", "text_encoder"}, None),
        ([UNET, VAE, CLIP_OF_TWO, OPEN_CLIP_OF_TWO], "sdxl", {"unet", "vae", "text_encoder", "text_encoder_2"}, XL),
        ([UNET, CLIP_OF_TWO, OPEN_CLIP_OF_TWO, "v_pred"], "sdxl", {"unet", "text_encoder", "text_encoder_2"}, None),
        ([BLOCK, GUIDANCE], "flux1", {"transformer"}, DEV),
        ([BLOCK], "flux1", {"transformer"}, SCHNELL),
        ([f"model.diffusion_model.{BLOCK}", f"model.diffusion_model.{GUIDANCE}"], "flux1", {"transformer"}, DEV),
        ([f"model.diffusion_model.{BLOCK}", "vae.decoder.conv_in.weight"], "flux1", {"transformer", "vae"}, SCHNELL),
    ],
)
def test_every_way_to_publish_a_checkpoint_is_known(
    tmp_path: Path, names: list[str], family: str, components: set[str], published: str | None
) -> None:
    found = recognise(written(tmp_path / "a.safetensors", *names), layouts())
    assert (found.family, found.components, found.layout.published) == (family, components, published)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([UNET, VAE], f"found one of sd15 without {CLIP}"),
        # SDXL's refiner, whose one text encoder is the larger.
        ([UNET, VAE, "conditioner.embedders.0.model.token_embedding.weight"], f"found one of sd15 without {CLIP}"),
        ([UNET, CLIP_OF_TWO], f"found one of sdxl without {OPEN_CLIP_OF_TWO}"),
        ([VAE], "found a VAE's file"),
        (["lora_unet_down_blocks_0.alpha"], "found a LoRA's file"),
        # Of a family that is not installed: to add it as a checkpoint is what was tried.
        (["model.diffusion_model.joint_blocks.0.weight"], "found a checkpoint in one file$"),
    ],
)
def test_what_is_none_is_told_what_it_lacks_or_is(tmp_path: Path, names: list[str], words: str) -> None:
    with pytest.raises(BrokenBase, match=f"expected a checkpoint of sd15, sdxl, flux1, {words}"):
        recognise(written(tmp_path / "a.safetensors", *names), layouts())


def test_what_is_no_weights_at_all_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"<html>not found</html>")
    with pytest.raises(BrokenBase, match=r"a\.safetensors: no safetensors header"):
        recognise(tmp_path / "a.safetensors", layouts())
