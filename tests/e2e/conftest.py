"""A real server with real trainers, as `maquette serve` runs it, on the bundled base."""

import os
from collections.abc import Callable, Generator
from importlib.resources import as_file, files
from pathlib import Path

import pytest

from maquette.cli.server_process import ServerProcess
from maquette.client.client import Client
from maquette.client.records import DrawingStatus, TaskDetail
from maquette.core.specs import DatasetItem, ExpertSetting, TaskType

CHECKPOINT_EVERY = 5
"""Steps between checkpoints of the server's trainings."""
SETTING = ExpertSetting(max_train_steps=60, seed=7, learning_rate=1e-3, lora_r=4, instance_prompt="ohwx creature")
SIDE = 128


@pytest.fixture(scope="session")
def pictures() -> Generator[list[Path]]:
    """Three pictures of the example character."""
    with as_file(files("maquette") / "examples" / "pelu") as folder:
        yield [folder / f"0{number}.png" for number in (1, 2, 3)]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[ServerProcess]:
    settings = {
        "MAQUETTE_CHECKPOINT_EVERY": str(CHECKPOINT_EVERY),
        # Tests wait for trainings: they stand back for nothing else on a machine that is busy.
        "MAQUETTE_TRAINER_NICE": "0",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    with ServerProcess(tmp_path_factory.mktemp("server") / "data", settings) as server:
        yield server


@pytest.fixture(scope="session")
def api_key(server: ServerProcess) -> str:
    return server.command("keys", "create", "--tenant", "e2e")


@pytest.fixture(scope="session")
def client(server: ServerProcess, api_key: str) -> Generator[Client]:
    with Client(server.url, api_key) as client:
        yield client


@pytest.fixture(scope="session")
def items(client: Client, pictures: list[Path]) -> list[DatasetItem]:
    """The uploaded pictures. Tasks on the same ones with the same settings must end in the same bytes."""
    return [DatasetItem(client.upload(picture)) for picture in pictures]


@pytest.fixture(scope="session")
def start(client: Client, items: list[DatasetItem]) -> Callable[..., str]:
    """Starts the same small training each time, under another name or on other pictures; answers its id."""

    def start_training(name: str, items: list[DatasetItem] = items) -> str:
        return client.create_training(
            TaskType.SUBJECT,
            name=name,
            base_model="maquette-tiny",
            width=SIDE,
            height=SIDE,
            items=items,
            expert_setting=SETTING,
        )

    return start_training


@pytest.fixture(scope="session")
def served(client: Client, start: Callable[..., str]) -> TaskDetail:
    """A training whose LoRA is served."""
    *_, task = client.follow_model(start("served"))
    assert task.served, task
    return task


@pytest.fixture(scope="session")
def drawn(client: Client, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """Waits for an image task; answers its one picture's file."""
    folder = tmp_path_factory.mktemp("drawn")

    def wait(task_id: str) -> bytes:
        *_, found = client.follow_image(task_id)
        assert found.task.status is DrawingStatus.SUCCEED, found.task
        (picture,) = found.images
        client.save_picture(picture, folder / task_id)
        return (folder / task_id).read_bytes()

    return wait


@pytest.fixture
def user_environment(server: ServerProcess, api_key: str) -> dict[str, str]:
    """What a user of the command line has in the environment."""
    return os.environ | {"MAQUETTE_URL": server.url, "MAQUETTE_API_KEY": api_key}
