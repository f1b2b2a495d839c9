"""Request bodies: lenient in, and every error names the field on the wire.

What clients really send differs from the reference in known ways: unset fields as null, as empty strings or as empty
objects; numbers as strings; fields nobody documented; a missing or wrong content type. All of it is read here, alike
for every call.
"""

from collections.abc import Generator
from typing import Any, TypeVar

import msgspec
from litestar.dto import AbstractDTO
from litestar.dto.data_structures import DTOFieldDefinition
from litestar.openapi.spec import Reference, Schema
from litestar.typing import FieldDefinition

from maquette.core.errors import InvalidRequest
from maquette.core.requirements import read

T = TypeVar("T")


class WireBody(AbstractDTO[T]):
    """Reads a JSON body into the handler's `data`. Subclasses say in `tidy` what is special about one call's body."""

    @classmethod
    def tidy(cls, body: dict[str, Any]) -> None:
        """Rewrite known aliases and drop known placeholders, in place; `body` has no nulls any more."""

    def decode_bytes(self, value: bytes) -> T:
        """The body.

        Raises:
            InvalidRequest: it is no JSON object, or a field breaks its rule.
        """
        try:
            body = without_placeholders(_json(value), "")
        except RecursionError:
            raise InvalidRequest("body", "is nested too deeply") from None
        if isinstance(body, dict):
            self.tidy(body)
        return read(body, self.model_type)

    # What follows fits a class that reads bodies by itself into Litestar's machinery for generated ones.

    @classmethod
    def create_for_field_definition(
        cls, field_definition: FieldDefinition, handler_id: str, backend_cls: Any = None
    ) -> None:
        """Nothing to generate."""

    @classmethod
    def is_supported_model_type_field(cls, field_definition: FieldDefinition) -> bool:  # noqa: ARG003
        """Every type that msgspec reads."""
        return True

    @classmethod
    def generate_field_definitions(cls, model_type: type[Any]) -> Generator[DTOFieldDefinition]:  # noqa: ARG003
        """None: msgspec knows the fields."""
        yield from ()

    @classmethod
    def detect_nested_field(cls, field_definition: FieldDefinition) -> bool:  # noqa: ARG003
        """None: msgspec knows the fields."""
        return False

    @classmethod
    def create_openapi_schema(
        cls,
        field_definition: FieldDefinition,
        handler_id: str,  # noqa: ARG003
        schema_creator: Any,
    ) -> Reference | Schema:
        """The schema of the type itself."""
        return schema_creator.for_field_definition(field_definition)


def without_placeholders(value: Any, path: str) -> Any:
    """The same JSON without the fields that say nothing: null, an empty string, an empty object.

    Raises:
        InvalidRequest: a string holds the character U+0000, which no database stores.
    """
    match value:
        case dict():
            kept = {name: without_placeholders(item, f"{path}.{name}") for name, item in value.items()}
            return {name: item for name, item in kept.items() if item is not None and item not in ("", {})}
        case list():
            return [without_placeholders(item, f"{path}[{index}]") for index, item in enumerate(value)]
        case str() if "\0" in value:
            raise InvalidRequest(path.lstrip(".") or "body", "must not contain the character U+0000")
        case _:
            return value


def _json(value: bytes) -> object:
    try:
        return msgspec.json.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidRequest("body", f"is no valid JSON: {error}") from None
