"""The wire forms of uploads."""

from typing import Any

from msgspec import Struct

from maquette.core.picture_format import SUFFIXES, PictureFormat
from maquette.server.bodies import WireBody


class UploadRequest(Struct, frozen=True):
    """Body of `POST /v3/assets/training_dataset`. The bytes may turn out to be of another format than declared."""

    file_extension: PictureFormat


class HeaderValues(Struct, frozen=True):
    """Values of one header."""

    values: list[str]


class UploadAddress(Struct, frozen=True, kw_only=True):
    """Where to send one picture.

    Attributes:
        assets_id: what to call the picture afterwards.
        upload_url: absolute; takes the bytes without any key until it expires.
        method: always PUT.
        headers: the host, for the published shape; no client reads it.
    """

    assets_id: str
    upload_url: str
    method: str
    headers: dict[str, HeaderValues]


class UploadBody(WireBody[UploadRequest]):
    """Takes extensions as file names carry them."""

    @classmethod
    def tidy(cls, body: dict[str, Any]) -> None:
        """`.JPG` is `jpeg`."""
        extension = body.get("file_extension")
        if isinstance(extension, str):
            suffix = f".{extension.lower().removeprefix('.')}"
            body["file_extension"] = SUFFIXES.get(suffix, extension)
