"""`maquette train`: a folder of pictures becomes a LoRA file."""

import inspect
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec
import typer
from rich.markup import escape

from maquette.cli.follow import follow_with_bar, progress_bar
from maquette.cli.output import DEFAULT_URL, ApiKey, Url, connect, err, out
from maquette.client.client import Client
from maquette.core.errors import InvalidRequest
from maquette.core.specs import DatasetItem, ExpertSetting, TaskType

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
PARALLEL_UPLOADS = 4


def with_expert_options(command: Any) -> Any:
    """Give a command one option for each expert setting, with the type, range and help of its definition.

    The command receives them as keyword arguments; those that were not given are None.
    """
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    expert = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(field))
        for field in msgspec.structs.fields(ExpertSetting)
    ]
    command.__signature__ = signature.replace(parameters=[*own, *expert])
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *expert)}
    return command


def _option(field: msgspec.structs.FieldInfo) -> Any:
    definition = next(choice for choice in get_args(field.type) if choice is not msgspec.UnsetType)
    kind, meta = get_args(definition)
    numeric = kind in {int, float}
    option = typer.Option(
        help=meta.description,
        min=meta.ge if numeric else None,
        max=meta.le if numeric else None,
        show_default=False,
        rich_help_panel="Expert settings (the server fills in what is not given)",
    )
    return Annotated[kind | None, option]


@with_expert_options
def train(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder with 1 to 50 pictures.")],
    name: Annotated[str, typer.Option(help="What to call the task.")],
    base: Annotated[str, typer.Option(help="Base model, one of `maquette bases list`.")],
    task_type: Annotated[TaskType, typer.Option("--type", help="What the pictures have in common.")] = TaskType.SUBJECT,
    width: Annotated[int, typer.Option(min=1, help="Pixels each picture is cropped and resized to.")] = 512,
    height: Annotated[int, typer.Option(min=1, help="Pixels each picture is cropped and resized to.")] = 512,
    output: Annotated[Path, typer.Option(help="Folder for the LoRA file.")] = Path(),
    detach: Annotated[bool, typer.Option(help="Start the task, print its id, and don't wait.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = "",
    **expert: Any,
) -> None:
    """Upload a folder of pictures, train a LoRA on them, and save it.

    A picture's caption is read from a text file beside it with the same name (cat.png, cat.txt).
    """
    pictures = pictures_in(folder)
    given = {field: value for field, value in expert.items() if value is not None}
    with connect(url, api_key) as client:
        task_id = client.create_training(
            task_type,
            name=name,
            base_model=base,
            width=width,
            height=height,
            items=upload_all(client, pictures),
            expert_setting=ExpertSetting(**given),
        )
        if detach:
            out.print(task_id)
            return
        err.print(f"task {task_id}")
        task = follow_with_bar(client, task_id)
        if task.task_status != "SUCCESS":
            err.print(f"[red]{task.task_status}[/] {escape(task.message)}")
            raise typer.Exit(1)
        output.mkdir(parents=True, exist_ok=True)
        target = output / task.models[0].model_name
        client.save_weights(task_id, target)
    out.print(str(target))


def pictures_in(folder: Path) -> list[Path]:
    """The folder's pictures by name.

    Raises:
        InvalidRequest: there is none.
    """
    pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
    if not pictures:
        raise InvalidRequest("folder", f"{folder} holds no picture; known are {', '.join(sorted(PICTURE_SUFFIXES))}")
    return pictures


def upload_all(client: Client, pictures: list[Path]) -> list[DatasetItem]:
    """Upload pictures side by side with a progress bar; captions come from the text files beside them."""
    with progress_bar() as progress, ThreadPoolExecutor(PARALLEL_UPLOADS) as pool:
        bar = progress.add_task("upload", total=len(pictures), note="")
        items: list[DatasetItem] = []
        for picture, asset_id in zip(pictures, pool.map(client.upload, pictures), strict=True):
            items.append(DatasetItem(asset_id, _caption(picture)))
            progress.advance(bar)
    return items


def _caption(picture: Path) -> str | msgspec.UnsetType:
    text = picture.with_suffix(".txt")
    return text.read_text().strip() if text.exists() else msgspec.UNSET
