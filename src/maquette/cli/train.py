"""`maquette train`: a folder of pictures becomes a LoRA file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from msgspec import UNSET, Struct, UnsetType

from maquette.cli.dataset import pictures_in, unsent_items, upload_all
from maquette.cli.follow import follow_with_bar
from maquette.cli.history import called
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
from maquette.client.records import Status
from maquette.core.requirements import check
from maquette.core.specs import (
    MAX_PICTURES,
    Arguments,
    Background,
    BackgroundColor,
    Buckets,
    ExpertSetting,
    FaceCropRatio,
    FaceCropRegion,
    FaceRestore,
    Resize,
    RestorationMethod,
    RestorationUpscale,
    Side,
    TaskType,
    TrainingRequest,
    component,
)
from maquette.core.weights import LoraLayout

_, SIDE = get_args(Side)
Pixels = Annotated[int, typer.Option(min=SIDE.ge, max=SIDE.le, help=SIDE.description)]


class PictureOptions(Struct, frozen=True):
    """What is done to pictures, as the options call it."""

    buckets: Buckets | UnsetType = UNSET
    face_crop: FaceCropRatio | UnsetType = UNSET
    face_restore: RestorationMethod | UnsetType = UNSET
    face_restore_upscale: RestorationUpscale | UnsetType = UNSET
    background: BackgroundColor | UnsetType = UNSET


ARGUMENTS: Mapping[str, tuple[type[Arguments], str]] = {
    "buckets": (Resize, "buckets"),
    "face_crop": (FaceCropRegion, "ratio"),
    "face_restore": (FaceRestore, "method"),
    "face_restore_upscale": (FaceRestore, "upscale"),
    "background": (Background, "color"),
}
"""What each of them is: an argument of a component. Its width and height are the command's own."""


@with_options(ExpertSetting, panel="Expert settings (the server fills in what is not given)")
@with_options(PictureOptions, panel="What is done to pictures, beside width and height")
def train(
    folder: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help=f"Folder with 1 to {MAX_PICTURES} pictures.")
    ],
    name: Annotated[str, typer.Option(help="What to call the task.")],
    base: Annotated[str, typer.Option(help="Base model, one of `maquette bases list`.")],
    task_type: Annotated[TaskType, typer.Option("--type", help="What the pictures have in common.")] = TaskType.SUBJECT,
    held_out: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder with pictures to keep out of training, and to measure the loss on at every checkpoint.",
        ),
    ] = None,
    width: Pixels = 512,
    height: Pixels = 512,
    output: Output = Path(),
    layout: Layout = LoraLayout.DIFFUSERS,
    detach: Annotated[bool, typer.Option(help="Start the task, print its id, and don't wait.")] = False,
    json: Json = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = "",
    **options: Any,
) -> None:
    """Upload a folder of pictures, train a LoRA on them, and save it.

    A picture's caption is read from a text file beside it with the same name (cat.png, cat.txt).

    What is found of the pictures is told meanwhile, and how the run is planned, resumed and taken back.
    """
    shown, measured = pictures_in(folder), pictures_in(held_out) if held_out else []
    preparation = PictureOptions(**given(options, PictureOptions))
    check(preparation)
    components = components_for(preparation)
    request = TrainingRequest(
        name=name,
        base_model=base,
        width=width,
        height=height,
        image_dataset_items=[*unsent_items(shown), *unsent_items(measured, held_out=True)],
        expert_setting=ExpertSetting(**given(options, ExpertSetting)),
        components=[component(arguments) for arguments in components],
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
            items=upload_all(client, [*shown, *measured], request.image_dataset_items),
            expert_setting=request.expert_setting,
            components=components,
        )
        if detach:
            print_result(task_id, client.raw_task(task_id) if json else None)
            return
        err.print(f"task {task_id}")
        names = [*(picture.name for picture in shown), *(f"{picture.name} (held out)" for picture in measured)]
        task = follow_with_bar(client, task_id, names)
        if task.task_status is not Status.SUCCESS:
            if json:
                print_json(client.raw_task(task_id))
            fail(task.task_status, called(task.message, task, names))
            raise typer.Exit(1)
        target = output / task.models[0].model_name
        client.save_weights(task_id, target, layout=layout)
        print_result(str(target), client.raw_task(task_id) | {"file": str(target)} if json else None)


def components_for(options: PictureOptions) -> list[Arguments]:
    """The components that options ask for; what else they take is left open."""
    arguments: dict[type[Arguments], dict[str, Any]] = {}
    for option, (kind, argument) in ARGUMENTS.items():
        if (value := getattr(options, option)) is not UNSET:
            arguments.setdefault(kind, {})[argument] = value
    return [kind(**values) for kind, values in arguments.items()]
