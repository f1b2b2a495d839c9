"""What the server can't see cheaply, the trainer finds: a picture whose pixels can't be read."""

from pathlib import Path

import pytest

from maquette.client.client import Client
from maquette.core.specs import DatasetItem, ExpertSetting, TaskType

pytestmark = pytest.mark.torch


@pytest.fixture
def spoilt(pictures: list[Path], tmp_path: Path) -> Path:
    """A PNG with a good header and a good end, and garbage for pixels."""
    data = bytearray(pictures[0].read_bytes())
    begin = data.index(b"IDAT") + 4
    data[begin : begin + 64] = b"\xff" * 64
    target = tmp_path / "spoilt.png"
    target.write_bytes(data)
    return target


def test_an_unreadable_picture_fails_the_task_and_is_named(
    client: Client, items: list[DatasetItem], spoilt: Path
) -> None:
    asset_id = client.upload(spoilt)
    task_id = client.create_training(
        TaskType.STYLE,
        name="spoilt",
        base_model="maquette-tiny",
        width=128,
        height=128,
        items=[items[0], DatasetItem(asset_id)],
        expert_setting=ExpertSetting(max_train_steps=5),
    )
    *_, task = client.follow(task_id)
    assert (task.task_status, task.reason) == ("FAILED", "bad_dataset")
    assert asset_id in task.message
    assert task.models == []
    assert sum(event["kind"] == "started" for event in client.events(task_id)) == 1, "it was tried again in vain"
