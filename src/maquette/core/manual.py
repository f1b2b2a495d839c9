"""The manual's tables of what trainings and drawings take, from the definitions in `core.specs` and
`core.image_specs`; `docs/api.md` shows them.
"""

from collections.abc import Mapping

from msgspec import Struct, inspect

from maquette.core.image_specs import (
    AwsS3,
    ControlNet,
    CustomStorage,
    Drawing,
    EmbeddingChoice,
    EnterprisePlan,
    HiresFixChoice,
    ImageExtra,
    ImageToImage,
    LoraChoice,
    RefinerChoice,
    TextToImage,
    Webhook,
    WebhookTest,
)
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
HEAD = ("field", "takes", "beside the published API", "default", "meaning")


def body_table() -> str:
    """Every field of a create call's body beside `expert_setting` and the components' arguments."""
    rows = [*_rows(TrainingRequest, ""), *_rows(DatasetItem, "image_dataset_items[].")]
    return _table(*HEAD, rows=rows)


def setting_table() -> str:
    """Every field of `expert_setting`."""
    constants = {**CONSTANT_DEFAULTS, "learning_rate": FAMILY_DEFAULTS.learning_rate, "lora_r": FAMILY_DEFAULTS.lora_r}
    return _table(*HEAD, rows=_rows(ExpertSetting, "", constants))


def component_table() -> str:
    """Every component with its arguments."""
    rows = [[f"`{name}`", *row] for name, arguments in COMPONENTS.items() for row in _rows(arguments, "")]
    return _table("component", "argument", "takes", "beside the published API", "default", "meaning", rows=rows)


def drawing_table() -> str:
    """Every field that both drawing calls' bodies have."""
    places: Mapping[str, type[Struct]] = {
        "request.": Drawing,
        "request.loras[].": LoraChoice,
        "request.embeddings[].": EmbeddingChoice,
        "request.controlnet.": ControlNet,
        "extra.": ImageExtra,
        "extra.webhook.": Webhook,
        "extra.webhook.test_mode.": WebhookTest,
        "extra.custom_storage.": CustomStorage,
        "extra.custom_storage.aws_s3.": AwsS3,
        "extra.enterprise_plan.": EnterprisePlan,
    }
    return _table(*HEAD, rows=[row for prefix, struct in places.items() for row in _rows(struct, prefix)])


def text_to_image_table() -> str:
    """What the body of txt2img alone has."""
    nested = [*_rows(HiresFixChoice, "request.hires_fix."), *_rows(RefinerChoice, "request.refiner.")]
    return _table(*HEAD, rows=[*_own_rows(TextToImage), *nested])


def image_to_image_table() -> str:
    """What the body of img2img alone has."""
    return _table(*HEAD, rows=_own_rows(ImageToImage))


def _own_rows(struct: type[Drawing]) -> list[list[str]]:
    shared = _rows(Drawing, "request.")
    return [row for row in _rows(struct, "request.") if row not in shared]


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
