"""Folders of pictures, and the items of a training that they become."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from msgspec.structs import replace

from maquette.cli.follow import progress_bar
from maquette.cli.history import places
from maquette.client.client import Client
from maquette.client.records import TaskDetail
from maquette.core.errors import InvalidRequest, about_file
from maquette.core.files import file_sha256
from maquette.core.picture_format import SUFFIXES
from maquette.core.requirements import check
from maquette.core.specs import MAX_PICTURES, DatasetItem

PARALLEL_UPLOADS = 4


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


def unsent_items(pictures: list[Path], *, held_out: bool = False) -> list[DatasetItem]:
    """What is known of pictures before they are uploaded: their captions, from the text files beside them.

    Raises:
        MaquetteError: a caption can't be used; the words name the file.
    """
    items: list[DatasetItem] = []
    for picture in pictures:
        text = picture.with_suffix(".txt")
        with about_file(text):
            items.append(DatasetItem(picture.name, _caption(text), held_out))
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


def names_in(folders: Sequence[Path], task: TaskDetail) -> list[str]:
    """How a task's pictures are called in folders, known by their contents; those that are not there by their place.

    Raises:
        InvalidRequest: see `pictures_in`.
    """
    files: dict[str, list[str]] = {}
    for folder in folders:
        for picture in pictures_in(folder):
            files.setdefault(file_sha256(picture), []).append(picture.name)
    found = (files.get(picture.sha256) for picture in task.pictures)
    # Files with the same contents were sent one after the other, by name.
    return [same.pop(0) if same else place for same, place in zip(found, places(task), strict=True)]


def _caption(text: Path) -> str | msgspec.UnsetType:
    """An empty file says nothing, like none."""
    try:
        return text.read_text("utf-8-sig").strip() or msgspec.UNSET
    except FileNotFoundError:
        return msgspec.UNSET
    except UnicodeDecodeError:
        raise InvalidRequest("caption", "is not UTF-8 text") from None
