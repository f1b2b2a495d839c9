"""What an operator registers beside checkpoints draws, by a real worker; and pictures reach buckets of callers."""

import io
import shutil
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, ImageChops
from safetensors.numpy import load_file, save_file
from transformers import CLIPTokenizer

from maquette.bases.catalogue import BUNDLED_PATH
from maquette.cli.server_process import ServerProcess
from maquette.testing.s3 import S3Server, s3_server

pytestmark = pytest.mark.torch

PATIENCE = 240.0
WEIGHTS = "diffusion_pytorch_model.safetensors"
TOKEN_VECTORS = "embeddings.token_embedding.weight"
BUCKET = "their-pictures"
SMALL = {"model_name": "maquette-tiny", "width": 128, "height": 128, "steps": 6, "seed": 5, "sampler_name": "DDIM"}


@pytest.fixture(scope="module")
def s3() -> Generator[S3Server]:
    with s3_server() as s3:
        s3.empty(BUCKET)
        yield s3


@pytest.fixture(scope="module")
def generous(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Generator[ServerProcess]:
    """A server whose operator has opened a bucket and registered a model of each kind."""
    settings = {"MAQUETTE_CUSTOM_STORAGE": f"s3://{BUCKET}/drawn", "OMP_WAIT_POLICY": "PASSIVE", **s3.environment}
    folder = tmp_path_factory.mktemp("added")
    with ServerProcess(folder / "data", settings) as server:
        for kind, name, path in (
            ("vae", "dark", darkened(folder / "vae")),
            ("embedding", "pelu-word", word(folder / "word.safetensors", "creature")),
            ("refiner", "other", altered(folder / "refiner")),
        ):
            server.command("bases", "add", name, "--kind", kind, "--from", str(path))
        yield server


def darkened(folder: Path) -> Path:
    """The bundled base's autoencoder, whose pictures are all darker."""
    shutil.copytree(BUNDLED_PATH / "vae", folder)
    tensors = load_file(folder / WEIGHTS)
    tensors["decoder.conv_out.bias"] = tensors["decoder.conv_out.bias"] - np.float16(0.5)
    save_file(tensors, folder / WEIGHTS)
    return folder


def word(file: Path, same_as: str) -> Path:
    """An embedding that reads as a word of the bundled base does."""
    ids = CLIPTokenizer.from_pretrained(BUNDLED_PATH / "tokenizer")(same_as, add_special_tokens=False).input_ids
    vectors = load_file(BUNDLED_PATH / "text_encoder" / "model.safetensors")[TOKEN_VECTORS][ids]
    save_file({"string_to_param.*": vectors.astype(np.float32), "string_to_token.*": np.array([265])}, file)
    return file


def altered(folder: Path) -> Path:
    """The bundled base, whose denoiser answers half of what it did."""
    shutil.copytree(BUNDLED_PATH, folder)
    tensors = load_file(folder / "unet" / WEIGHTS)
    tensors["conv_out.weight"] = tensors["conv_out.weight"] / np.float16(2)
    save_file(tensors, folder / "unet" / WEIGHTS)
    return folder


class Caller:
    """A tenant who asks for pictures and waits for them."""

    def __init__(self, server: ServerProcess) -> None:
        headers = {"Authorization": server.command("keys", "create", "--tenant", "caller")}
        self.http = httpx.Client(base_url=server.url, headers=headers, trust_env=False, timeout=60)

    def draw(self, extra: Any = None, **request: Any) -> tuple[str, bytes]:
        """Ask for one picture; answers its task and its file."""
        created = self.http.post("/v3/async/txt2img", json={"extra": extra, "request": {**SMALL, **request}})
        assert created.status_code == 200, created.text
        deadline = time.monotonic() + PATIENCE
        while True:
            found = self.http.get("/v3/async/task-result", params=created.json()).json()
            if found["task"]["status"] == "TASK_STATUS_SUCCEED":
                return created.json()["task_id"], httpx.get(found["images"][0]["image_url"], trust_env=False).content
            assert found["task"]["status"] != "TASK_STATUS_FAILED", found
            assert time.monotonic() < deadline, found
            time.sleep(0.1)


@pytest.fixture(scope="module")
def caller(generous: ServerProcess) -> Generator[Caller]:
    caller = Caller(generous)
    yield caller
    caller.http.close()


@pytest.fixture(scope="module")
def plain(caller: Caller) -> bytes:
    """The picture without anything added."""
    return caller.draw(prompt="ohwx creature")[1]


def pixels(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file)).convert("RGB")


def test_an_embedding_reads_as_its_vectors(caller: Caller, plain: bytes) -> None:
    embeddings = [{"model_name": "pelu-word.safetensors"}]
    assert caller.draw(prompt="ohwx pelu-word", embeddings=embeddings)[1] == plain
    assert caller.draw(prompt="ohwx pelu-word")[1] != plain


def test_an_autoencoder_decodes_in_place_of_the_checkpoints_own(caller: Caller, plain: bytes) -> None:
    _, dark = caller.draw(prompt="ohwx creature", sd_vae="dark")
    # Every channel of every pixel is darker, or was black before.
    assert ImageChops.subtract(pixels(dark), pixels(plain)).getbbox() is None
    assert ImageChops.subtract(pixels(plain), pixels(dark)).getbbox() == (0, 0, 128, 128)
    assert caller.draw(prompt="ohwx creature")[1] == plain


def test_a_refiner_takes_over(caller: Caller, plain: bytes) -> None:
    early, late = (caller.draw(prompt="ohwx creature", refiner={"switch_at": at})[1] for at in (0.2, 1.0))
    assert early != plain
    assert late == plain


def test_a_picture_reaches_the_callers_bucket_too(caller: Caller, s3: S3Server) -> None:
    place = {"region": "us-east-1", "bucket": BUCKET, "path": "/drawn/cats/"}
    extra = {"response_image_type": "jpeg", "custom_storage": {"aws_s3": place}}
    task_id, picture = caller.draw(extra, prompt="ohwx creature")
    copy = s3.get(BUCKET, f"drawn/cats/{task_id}/0.jpeg")
    assert (copy.status_code, copy.headers["content-type"]) == (200, "image/jpeg")
    assert copy.content == picture
