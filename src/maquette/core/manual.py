"""The manual's tables of what a training takes, from the definitions in `core.specs`; `docs/api.md` shows them."""

from collections.abc import Mapping

from msgspec import Struct, inspect

from maquette.core.requirements import description
from maquette.core.specs import (
    COMPONENTS,
    CONSTANT_DEFAULTS,
    DatasetItem,
    ExpertSetting,
    FamilyDefaults,
    TrainingRequest,
)

SAME = "same"
FAMILY_DEFAULTS = FamilyDefaults()


def body_table() -> str:
    """Every field of a create call's body beside `expert_setting` and the components' arguments."""
    rows = [*_rows(TrainingRequest, ""), *_rows(DatasetItem, "image_dataset_items[].")]
    return _table("field", "takes", "beside the published API", "default", "meaning", rows=rows)


def setting_table() -> str:
    """Every field of `expert_setting`."""
    constants = {**CONSTANT_DEFAULTS, "learning_rate": FAMILY_DEFAULTS.learning_rate, "lora_r": FAMILY_DEFAULTS.lora_r}
    return _table(
        "field", "takes", "beside the published API", "default", "meaning", rows=_rows(ExpertSetting, "", constants)
    )


def component_table() -> str:
    """Every component with its arguments."""
    rows = [[f"`{name}`", *row] for name, arguments in COMPONENTS.items() for row in _rows(arguments, "")]
    return _table("component", "argument", "takes", "beside the published API", "default", "meaning", rows=rows)


def _rows(struct: type[Struct], prefix: str, constants: Mapping[str, object] | None = None) -> list[list[str]]:
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    return [_row(field, prefix, (constants or {}).get(field.encode_name, field.default)) for field in info.fields]


def _row(field: inspect.Field, prefix: str, default: object) -> list[str]:
    """Name, range, what is said of the published API, default, and meaning."""
    assert isinstance(field.type, inspect.Metadata), f"{field.name} lacks a description"
    extra = field.type.extra or {}
    words: str = (field.type.extra_json_schema or {})["description"]
    return [
        f"`{prefix}{field.encode_name}`",
        description(field.type),
        extra.get("published", SAME),
        extra.get("default") or ("required" if field.required else _shown(default)),
        words,
    ]


def _shown(default: object) -> str:
    match default:
        case bool():
            return f"`{default}`".lower()
        case int() | float() | str():
            return f"`{default}`"
        case _:
            return "empty"


def _table(*head: str, rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))
