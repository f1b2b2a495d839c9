"""`maquette generate`: words become pictures, with a trained LoRA or without."""

from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec
import typer

from maquette.cli.follow import follow_image_with_bar
from maquette.cli.options import given, with_options
from maquette.cli.output import DEFAULT_URL, ApiKey, Json, Url, connect, err, fail, out, print_json
from maquette.client.client import Client, as_base64
from maquette.client.records import DrawingStatus, ImageTask
from maquette.core.errors import InvalidRequest
from maquette.core.image_specs import DEFAULT_ORIGINAL_STRENGTH, Drawing, ImageToImage, LoraChoice, Share, TextToImage
from maquette.core.requirements import check

OPTIONS = frozenset(
    {
        "negative_prompt",
        "width",
        "height",
        "image_num",
        "steps",
        "guidance_scale",
        "sampler_name",
        "seed",
        "sd_vae",
        "clip_skip",
    }
)
"""Fields of a request that are options by the same name."""
_, SHARE = get_args(Share)


@with_options(Drawing, names=OPTIONS, panel="Drawing (the published defaults hold for what is not given)")
def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    base: Annotated[str, typer.Option(help="Base model, one of `maquette bases list`.")],
    lora: Annotated[
        list[str] | None,
        typer.Option(help="A LoRA by its name, maybe with a strength: NAME or NAME:0.8; may come several times."),
    ] = None,
    original: Annotated[
        Path | None, typer.Option("--from", exists=True, dir_okay=False, help="A picture to start from.")
    ] = None,
    strength: Annotated[
        float, typer.Option(min=SHARE.ge, max=SHARE.le, help="How much of that picture is drawn anew.")
    ] = DEFAULT_ORIGINAL_STRENGTH,
    output: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path(),
    json: Json = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = "",
    **drawing: Any,
) -> None:
    """Draw pictures, wait for them, and save them."""
    loras = [_lora(words) for words in lora or ()]
    asked: dict[str, Any] = {"model_name": base, "prompt": prompt, "loras": loras, **given(drawing, Drawing)}
    if original:
        asked |= {"image_base64": as_base64(original), "strength": strength}
    request = ImageToImage(**asked) if original else TextToImage(**asked)
    check(request)
    output.mkdir(parents=True, exist_ok=True)
    with connect(url, api_key) as client:
        task_id = client.image_to_image(request) if isinstance(request, ImageToImage) else client.text_to_image(request)
        err.print(f"image task {task_id}")
        found = follow_image_with_bar(client, task_id)
        if found.task.status is not DrawingStatus.SUCCEED:
            if json:
                print_json(found)
            fail(found.task.status, found.task.reason)
            raise typer.Exit(1)
        saved = save_pictures(client, found, output)
    if json:
        print_json(msgspec.to_builtins(found) | {"files": [str(file) for file in saved]})
    else:
        out.print("\n".join(str(file) for file in saved))


def save_pictures(client: Client, task: ImageTask, folder: Path) -> list[Path]:
    """Save a task's pictures, called by its id and their place; answers the files in the order of their seeds."""
    saved: list[Path] = []
    for number, picture in enumerate(task.images):
        saved.append(folder / f"{task.task.task_id}-{number}.{picture.image_type}")
        client.save_picture(picture, saved[-1])
    return saved


def _lora(words: str) -> LoraChoice:
    name, colon, strength = words.rpartition(":")
    if not colon:
        return LoraChoice(model_name=words, strength=1.0)
    try:
        return LoraChoice(model_name=name, strength=float(strength))
    except ValueError:
        raise InvalidRequest("lora", f"must be NAME or NAME:STRENGTH, got {words!r}") from None
