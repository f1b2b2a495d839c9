"""`maquette train`: a folder of pictures becomes a LoRA file."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec
import typer
from msgspec.structs import replace

from maquette.cli.follow import follow_with_bar, progress_bar
from maquette.cli.options import given, with_options
from maquette.cli.output import (
    DEFAULT_URL,
    ApiKey,
    Json,
    Layout,
    Output,
    Url,
    connect,
    err,
    fail,
    print_json,
    print_result,
)
from maquette.client.client import Client
from maquette.client.records import Status
from maquette.core.errors import InvalidRequest, about_file
from maquette.core.picture_format import SUFFIXES
from maquette.core.requirements import check
from maquette.core.specs import MAX_PICTURES, DatasetItem, ExpertSetting, Side, TaskType, TrainingRequest
from maquette.core.weights import LoraLayout

_, SIDE = get_args(Side)
Pixels = Annotated[int, typer.Option(min=SIDE.ge, max=SIDE.le, help=SIDE.description)]
PARALLEL_UPLOADS = 4


@with_options(ExpertSetting, panel="Expert settings (the server fills in what is not given)")
def train(
    folder: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help=f"Folder with 1 to {MAX_PICTURES} pictures.")
    ],
    name: Annotated[str, typer.Option(help="What to call the task.")],
    base: Annotated[str, typer.Option(help="Base model, one of `maquette bases list`.")],
    task_type: Annotated[TaskType, typer.Option("--type", help="What the pictures have in common.")] = TaskType.SUBJECT,
    width: Pixels = 512,
    height: Pixels = 512,
    output: Output = Path(),
    layout: Layout = LoraLayout.DIFFUSERS,
    detach: Annotated[bool, typer.Option(help="Start the task, print its id, and don't wait.")] = False,
    json: Json = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = "",
    **expert: Any,
) -> None:
    """Upload a folder of pictures, train a LoRA on them, and save it.

    A picture's caption is read from a text file beside it with the same name (cat.png, cat.txt).
    """
    pictures = pictures_in(folder)
    request = TrainingRequest(
        name=name,
        base_model=base,
        width=width,
        height=height,
        image_dataset_items=unsent_items(pictures),
        expert_setting=ExpertSetting(**given(expert)),
    )
    check(request)
    if not detach:
        output.mkdir(parents=True, exist_ok=True)
    with connect(url, api_key) as client:
        task_id = client.create_training(
            task_type,
            name=name,
            base_model=base,
            width=width,
            height=height,
            items=upload_all(client, pictures, request.image_dataset_items),
            expert_setting=request.expert_setting,
        )
        if detach:
            print_result(task_id, client.raw_task(task_id) if json else None)
            return
        err.print(f"task {task_id}")
        task = follow_with_bar(client, task_id)
        if task.task_status is not Status.SUCCESS:
            if json:
                print_json(client.raw_task(task_id))
            fail(task.task_status, task.message)
            raise typer.Exit(1)
        target = output / task.models[0].model_name
        client.save_weights(task_id, target, layout=layout)
        print_result(str(target), client.raw_task(task_id) | {"file": str(target)} if json else None)


def pictures_in(folder: Path) -> list[Path]:
    """The folder's pictures by name.

    Raises:
        InvalidRequest: there is none, there are too many, or something else has a picture's name.
    """
    pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not pictures:
        raise InvalidRequest("folder", f"{folder} holds no picture; known are {', '.join(sorted(SUFFIXES))}")
    if len(pictures) > MAX_PICTURES:
        raise InvalidRequest("folder", f"{folder} holds {len(pictures)} pictures; a training takes 1 to {MAX_PICTURES}")
    for picture in pictures:
        if not picture.is_file():
            raise InvalidRequest("folder", f"{picture} is called like a picture and is no file")
    return pictures


def unsent_items(pictures: list[Path]) -> list[DatasetItem]:
    """What is known of pictures before they are uploaded: their captions, from the text files beside them.

    Raises:
        MaquetteError: a caption can't be used; the words name the file.
    """
    items: list[DatasetItem] = []
    for picture in pictures:
        text = picture.with_suffix(".txt")
        with about_file(text):
            items.append(DatasetItem(picture.name, _caption(text)))
            check(items[-1])
    return items


def upload_all(client: Client, pictures: list[Path], items: list[DatasetItem]) -> list[DatasetItem]:
    """Upload pictures side by side with a progress bar; answers their items, with the ids they are now known by."""
    sent: list[DatasetItem] = []
    with progress_bar() as progress, ThreadPoolExecutor(PARALLEL_UPLOADS) as pool:
        bar = progress.add_task("upload", total=len(pictures), note="")
        for item, asset_id in zip(items, pool.map(client.upload, pictures), strict=True):
            sent.append(replace(item, assets_id=asset_id))
            progress.advance(bar)
    return sent


def _caption(text: Path) -> str | msgspec.UnsetType:
    """An empty file says nothing, like none."""
    try:
        return text.read_text("utf-8-sig").strip() or msgspec.UNSET
    except FileNotFoundError:
        return msgspec.UNSET
    except UnicodeDecodeError:
        raise InvalidRequest("caption", "is not UTF-8 text") from None
