"""LoRA files that do not draw as they were trained to are never served, and whoever asks for one is told why at once.

A real trainer leaves no such file, so a trained one is spoiled, and put where a trainer's would be. From there on all
is real: each waits for the gate like any other, and the server's worker reads it, or draws with it.
"""

import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from PIL import Image
from sqlalchemy import select

from maquette.bases.catalogue import BUNDLED_PATH
from maquette.cli.server_process import ServerProcess
from maquette.client.client import Client
from maquette.client.records import Status, TaskDetail
from maquette.core.drawing import sample_request
from maquette.core.errors import ErrorReason, MaquetteError
from maquette.core.ids import new_id, sha256_hex
from maquette.core.image_specs import LoraChoice, TextToImage
from maquette.core.lifecycle import TaskStatus
from maquette.core.specs import DatasetItem, TrainingSpec
from maquette.core.weights import read_header
from maquette.db.engine import open_database
from maquette.db.tables import models, tasks
from maquette.families.sd15.pipeline import Sd15Pipeline
from maquette.server.models import service
from maquette.storage.registry import open_storage
from maquette.testing.factories import make_task
from maquette.trainer.tensors import read_tensors, write_tensors

pytestmark = pytest.mark.torch

UNREADABLE = {
    "wrong keys": r"(\d+) of \1 keys match no layer of this base: transformer\.",
    "keys of SDXL": r"4 of 4 keys match no layer of this base: lora_te2_\S+, \S+, lora_unet_",
    "not finite": r"1 of \d+ weights are empty or not finite: unet\.",
    "half its layers": r"lacks \d+ of the \d+ layers that its header names: unet\.",
    "half its pairs": r"lacks half of a pair for (\d+) of \1 layers: unet\.",
}
"""Files that the worker does not draw with, and what their models' messages say."""
MEASURED = {
    "no effect": r"differs from the trainer's by \d+\.\d\d in the mean and \d+ at most, of 255",
    "trained to nothing": r"it changes nothing: what it draws is the base's own picture, value by value$",
}
"""Files that it draws with, and that fail by what comes out."""


class Left:
    """What trainings have left on a server: their objects and rows.

    Args:
        like: a training whose settings, pictures and sample the others have too.
    """

    def __init__(self, server: ServerProcess, like: TaskDetail) -> None:
        self._storage = open_storage(f"file://{server.data_dir / 'objects'}")
        self._url = f"sqlite:///{server.data_dir / 'maquette.db'}"
        self._like = like

    async def weights(self) -> bytes:
        """The file that was trained."""
        return await self._storage.get((await self._row()).object_key)

    async def spec(self) -> TrainingSpec:
        """What it was trained with."""
        return msgspec.convert((await self._row()).spec, TrainingSpec)

    async def put(self, weights: bytes, sample: bytes | None = None) -> str:
        """Leave another training's file, and its sample (None is the same); answers the task's id."""
        row, prefix = await self._row(), f"tasks/{new_id()}"
        object_key, sample_key = f"{prefix}/lora.safetensors", f"{prefix}/final.png"
        await self._storage.put(object_key, weights)
        await self._storage.put(sample_key, sample or await self._storage.get(row.sample_key))
        database = open_database(self._url)
        async with database.write() as conn:
            task_id = await make_task(
                conn,
                row.tenant_id,
                status=TaskStatus.SUCCESS,
                dataset_id=row.dataset_id,
                spec=msgspec.convert(row.spec, TrainingSpec),
            )
            await service.birth(
                conn,
                tenant_id=row.tenant_id,
                task_id=task_id,
                finished_at=self._like.created_at,
                object_key=object_key,
                sample_key=sample_key,
                size=len(weights),
                sha256=sha256_hex(weights),
            )
        await database.dispose()
        return task_id

    async def _row(self) -> Any:
        database = open_database(self._url)
        query = select(
            tasks.c.tenant_id, tasks.c.dataset_id, tasks.c.spec, models.c.object_key, models.c.sample_key
        ).join_from(tasks, models)
        async with database.read() as conn:
            row = (await conn.execute(query.where(tasks.c.id == self._like.task_id))).one()
        await database.dispose()
        return row


def spoiled(how: str, trained: Path) -> bytes:
    """A trained file, spoiled in a way."""
    tensors, metadata = read_tensors(trained), read_header(trained).metadata
    names = sorted(tensors)
    match how:
        case "wrong keys":
            tensors = {f"transformer.{name}": tensor for name, tensor in tensors.items()}
        case "keys of SDXL":
            block = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
            text = "lora_te2_text_model_encoder_layers_0_self_attn_q_proj"
            parts = {"lora_down.weight": (4, 64), "lora_up.weight": (64, 4)}
            tensors = {f"{layer}.{part}": torch.ones(shape) for layer in (block, text) for part, shape in parts.items()}
            metadata = {}
        case "not finite":
            tensors[names[5]].view(-1)[3] = torch.nan
        case "half its layers":
            tensors = {name: tensors[name] for name in names[: len(names) // 4 * 2]}
        case "half its pairs":
            tensors = {name: tensors[name] for name in names if ".lora_A." in name}
        case _:
            tensors = {name: tensor * (".lora_A." in name) for name, tensor in tensors.items()}
    target = trained.with_name("spoiled.safetensors")
    write_tensors(target, tensors, metadata)
    return target.read_bytes()


def striped(path: Path, turn: int) -> Path:
    """A picture that is nothing like the example character: stripes, turned by some degrees."""
    picture = Image.new("RGB", (256, 256), "navy")
    for left in range(0, 256, 64):
        picture.paste("orange", (left, 0, left + 32, 256))
    picture.rotate(turn, fillcolor="navy").save(path)
    return path


def drawn_without(spec: TrainingSpec) -> bytes:
    """The sample of a training that has learned nothing."""
    file = io.BytesIO()
    Sd15Pipeline.load(BUNDLED_PATH, torch.device("cpu")).draw(sample_request(spec.sample)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def left(server: ServerProcess, served: TaskDetail) -> Left:
    return Left(server, served)


@pytest.fixture(scope="module")
async def wrong(left: Left, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Tasks whose files are spoiled, by how."""
    trained = tmp_path_factory.mktemp("spoiled") / "trained.safetensors"
    trained.write_bytes(await left.weights())
    samples = {"trained to nothing": drawn_without(await left.spec())}
    return {how: await left.put(spoiled(how, trained), samples.get(how)) for how in (*UNREADABLE, *MEASURED)}


def check_rejected(client: Client, task_id: str, words: str, *, is_measured: bool) -> None:
    """Assert that a task's model is rejected with these words, by all that tells of it."""
    *_, task = client.follow_model(task_id)
    (entry,) = task.models
    assert (task.task_status, entry.model_status) == (Status.SUCCESS, "DEPLOYING")
    detail = client.raw_task(task_id)["model"]
    assert (detail["verdict"], detail["model_status"]) == ("rejected", "DEPLOYING")
    assert re.search(words, detail["message"]), detail["message"]
    assert "/" not in detail["message"], "folders of the server are nobody else's business"
    (told,) = [event["data"] for event in client.events(task_id) if event["kind"] == "model_rejected"]
    assert told["message"] == detail["message"]
    assert ("from_sample" in detail, "from_base" in detail) == (is_measured, is_measured)
    if is_measured:
        assert (told["from_sample"], told["from_base"]) == (detail["from_sample"], detail["from_base"])
    (listed,) = [model for model in client.models(visibility="private") if model.sd_name == entry.model_name]
    assert listed.status == 0
    with pytest.raises(MaquetteError, match=re.escape(detail["message"])) as refused:
        client.text_to_image(drawing_with(entry.model_name))
    assert refused.value.reason is ErrorReason.INVALID_REQUEST_BODY


def drawing_with(model_name: str) -> TextToImage:
    return TextToImage(
        model_name="maquette-tiny",
        prompt="ohwx creature",
        width=128,
        height=128,
        image_num=1,
        seed=5,
        steps=8,
        loras=[LoraChoice(model_name=model_name)],
    )


@pytest.mark.parametrize("how", UNREADABLE)
def test_a_file_that_does_not_fit_is_never_served(client: Client, wrong: Mapping[str, str], how: str) -> None:
    check_rejected(client, wrong[how], UNREADABLE[how], is_measured=False)


@pytest.mark.parametrize("how", MEASURED)
def test_a_file_that_draws_something_else_is_never_served(client: Client, wrong: Mapping[str, str], how: str) -> None:
    check_rejected(client, wrong[how], MEASURED[how], is_measured=True)


@pytest.mark.slow
async def test_a_file_of_another_subject_is_never_served(
    client: Client, left: Left, start: Callable[..., str], tmp_path: Path
) -> None:
    """Trained in the same way for the same words, on other pictures."""
    pictures = [striped(tmp_path / f"{turn}.png", turn) for turn in (0, 30, 60)]
    other = start("another subject", [DatasetItem(client.upload(picture)) for picture in pictures])
    *_, task = client.follow_model(other)
    assert task.served, task
    client.save_weights(other, tmp_path / "other.safetensors")
    task_id = await left.put((tmp_path / "other.safetensors").read_bytes())
    check_rejected(client, task_id, MEASURED["no effect"], is_measured=True)


async def test_drawing_with_a_model_that_is_not_judged_yet_waits_for_it(
    client: Client, left: Left, served: TaskDetail, drawn: Callable[[str], bytes]
) -> None:
    wanted = drawn(client.text_to_image(drawing_with(served.models[0].model_name)))
    task_id = await left.put(await left.weights())
    image_task = client.text_to_image(drawing_with(client.task(task_id).models[0].model_name))
    assert client.raw_task(task_id)["model"]["verdict"] == "pending"
    assert drawn(image_task) == wanted
    assert client.task(task_id).served
