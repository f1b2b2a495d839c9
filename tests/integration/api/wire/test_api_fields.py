"""Each field of a training holds to its one definition, and is read leniently. The cases are derived from it."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from maquette.core.specs import ExpertSetting, TrainingRequest
from maquette.testing.api import Api, Traces, reason


def peeled(kind: inspect.Type) -> inspect.Type:
    return kind.type if isinstance(kind, inspect.Metadata) else kind


def fields(struct: type) -> dict[str, inspect.Type]:
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    return {field.encode_name: peeled(field.type) for field in info.fields}


def good(kind: inspect.Type) -> list[Any]:
    """Values that a type takes: its bounds, and its forms on the wire."""
    match kind:
        case inspect.IntType():
            return [kind.ge, kind.le, str(kind.ge), f"{kind.le}", float(kind.ge or 0), None]
        case inspect.FloatType():
            return [kind.le, str(kind.le), (kind.le or 0) / 3, "1e-4", None]
        case inspect.StrType():
            return ["x", "\u00e9" * (kind.max_length or 0), "", None]
        case inspect.BoolType():
            return [True, False, "true", "false", 1, 0, None]
        case inspect.EnumType():
            return [*(member.value for member in kind.cls), None]
        case _:
            raise AssertionError(kind)


def bad(kind: inspect.Type) -> list[tuple[Any, str]]:
    """Values that a type refuses, and the words that say why."""
    match kind:
        case inspect.IntType():
            limits = f"between {kind.ge} and {kind.le}"
            wrong = [((kind.ge or 0) - 1, f"must be {limits}"), ((kind.le or 0) + 1, f"must be {limits}")]
            return wrong + [(value, f"must be a whole number {limits}") for value in ("many", 4.5, [4], {"x": 4})]
        case inspect.FloatType():
            closed = kind.ge is not None
            limits = f"between {kind.ge} and {kind.le}" if closed else f"above {kind.gt} and at most {kind.le}"
            out = [*([] if closed else [0]), -1, (kind.le or 0) * 1.01, "nan", "inf", "-inf", "NaN", 10**400]
            wrong = [(value, f"must be {limits}") for value in out]
            return wrong + [(value, f"must be a number {limits}") for value in ("fast", [1e-4])]
        case inspect.StrType():
            limits = f"a string of 1 to {kind.max_length} characters"
            return [(value, f"must be {limits}") for value in ("x" * ((kind.max_length or 0) + 1), 5, ["x"])]
        case inspect.BoolType():
            return [(value, "must be true or false") for value in ("maybe", 2, [True])]
        case inspect.EnumType():
            known = ", ".join(member.value for member in kind.cls)
            return [(value, f"must be one of {known}") for value in ("sqrt", 7, ["constant"])]
        case _:
            raise AssertionError(kind)


SETTINGS = fields(ExpertSetting)
TOP = {
    name: kind for name, kind in fields(TrainingRequest).items() if isinstance(kind, inspect.IntType | inspect.StrType)
}


def test_the_cases_cover_every_field() -> None:
    assert len(SETTINGS) == 15 + 9
    assert list(TOP) == ["name", "base_model", "width", "height"]


@pytest.mark.parametrize("field", SETTINGS)
async def test_an_expert_setting_within_its_bounds_is_taken(api: Api, field: str) -> None:
    items = [{"assets_id": await api.upload()}]
    for value in good(SETTINGS[field]):
        response = await api.train(image_dataset_items=items, expert_setting={field: value})
        assert response.status_code == 200, (value, response.text)


@pytest.mark.parametrize("field", SETTINGS)
async def test_an_expert_setting_out_of_bounds_is_refused_by_name(api: Api, traces: Traces, field: str) -> None:
    items = [{"assets_id": await api.upload()}]
    before = await traces.count()
    for value, words in bad(SETTINGS[field]):
        response = await api.train(image_dataset_items=items, expert_setting={field: value})
        assert response.status_code == 400, value
        if value != 10**400:  # no float at all, so the JSON itself is refused
            assert response.json()["message"].startswith(f"expert_setting.{field}: {words}, got "), response.text
        assert reason(response) == (400, "INVALID_REQUEST_BODY")
    assert await traces.count() == before


@pytest.mark.parametrize("field", TOP)
async def test_a_top_level_field_out_of_bounds_is_refused_by_name(api: Api, traces: Traces, field: str) -> None:
    items = [{"assets_id": await api.upload()}]
    before = await traces.count()
    for value, words in [*bad(TOP[field]), (None, "is required; it must be "), ("", "is required; it must be ")]:
        if value == "" and isinstance(TOP[field], inspect.IntType):
            continue
        response = await api.train("subject", **{"image_dataset_items": items, field: value})
        assert reason(response) == (400, "INVALID_REQUEST_BODY"), value
        assert response.json()["message"].startswith(f"{field}: {words}"), response.text
    assert await traces.count() == before


def resize(**values: object) -> list[dict[str, Any]]:
    return [{"name": "resize", "args": [{"name": name, "value": value} for name, value in values.items()]}]


@pytest.mark.parametrize("value", ["512", "512.0", "5.12e2", 512, 512.0])
async def test_a_components_numbers_have_every_form_that_fields_have(api: Api, value: object) -> None:
    task_id = await api.task(width=value, components=resize(height=value))
    task = (await api.http.get(f"/v3/training/{task_id}")).json()
    assert (task["width"], task["height"]) == (512, 512)


@pytest.mark.parametrize("value", ["true", "false", True, False])
async def test_a_component_is_told_yes_or_no_in_words_or_as_json_does(api: Api, value: object) -> None:
    await api.task(components=resize(buckets=value))


@pytest.mark.parametrize("seed", [1, 2**32, str(2**53 + 1), 2**63 - 1])
async def test_a_seed_has_64_bits(api: Api, seed: object) -> None:
    task_id = await api.task(expert_setting={"seed": seed, "prior_loss_weight": 1e6, "lr_warmup_steps": 10**6})
    settings = (await api.http.get(f"/v3/training/{task_id}")).json()["settings"]
    assert (settings["seed"], settings["prior_loss_weight"], settings["lr_warmup_steps"]) == (
        int(str(seed)),
        1e6,
        10**6,
    )


def component_cases() -> Iterator[tuple[object, str]]:
    yield [{"name": "sharpen"}], "components[0].name: unknown component 'sharpen'; known are"
    yield resize(depth="1"), "components[0].args[0].name: unknown argument 'depth'; known are width, height, buckets"
    yield resize(width=0), "components[0].width: must be between 1 and 2048, got 0"
    for value in ("wide", "512.9", 512.9, " 512 ", "5_12", "0512", "+512", "\u0665\u0661\u0662", "nan"):
        yield resize(width=value), "components[0].width: must be a whole number between 1 and 2048, got "
    yield resize(width=True), "components[0].width: must be a whole number between 1 and 2048, got true"
    twice = resize(width="512")
    twice[0]["args"] *= 2
    yield twice, "components[0].args[1].name: the argument 'width' is given twice"
    for value in ("nan", "inf", "0.01", "1_0"):
        args = [{"name": "ratio", "value": value}]
        yield [{"name": "face_crop_region", "args": args}], "components[0].ratio: must be "
    args = [{"name": "color", "value": "red"}]
    yield [{"name": "background", "args": args}], "components[0].color: must be a string that matches ^#[0-9a-fA-F]{6}$"
    args = [{"name": "method", "value": "nosuch"}]
    yield [{"name": "face_restore", "args": args}], "components[0].method: must be one of gfpgan_1.4, got"
    yield [{"name": "resize", "args": [{"value": "512"}]}], "components[0].args[0].name: is required"
    yield [{"name": "resize", "args": [{"name": "width"}]}], "components[0].args[0].value: is required"
    yield [{"name": 5}], "components[0].name: must be a string, got 5"
    yield {"name": "resize"}, "components: must be a list, got an object"


@pytest.mark.parametrize(("components", "words"), list(component_cases()))
async def test_bad_components_are_refused_by_name(api: Api, traces: Traces, components: object, words: str) -> None:
    items = [{"assets_id": await api.upload()}]
    before = await traces.count()
    response = await api.train(image_dataset_items=items, components=components)
    assert reason(response) == (400, "INVALID_REQUEST_BODY")
    assert response.json()["message"].startswith(words)
    assert await traces.count() == before


@pytest.mark.parametrize(
    ("items", "words"),
    [
        (None, "image_dataset_items: is required; it must be a list of 1 to 50 items"),
        ([], "image_dataset_items: must be a list of 1 to 50 items, got 0 items"),
        ([{"assets_id": "0" * 32}] * 51, "image_dataset_items: must be a list of 1 to 50 items, got 51 items"),
        ("0" * 32, "image_dataset_items: must be a list of 1 to 50 items"),
        (["0" * 32], "image_dataset_items[0]: must be an object"),
        ([{"caption": "a cat"}], "image_dataset_items[0].assets_id: is required"),
        ([{"assets_id": ""}], "image_dataset_items[0].assets_id: is required"),
        ([{"assets_id": 1.5}], "image_dataset_items[0].assets_id: must be a "),
        (
            [{"assets_id": "0" * 32, "caption": "x" * 1025}],
            "image_dataset_items[0].caption: must be a string of",
        ),
    ],
)
async def test_bad_items_are_refused_by_name(api: Api, traces: Traces, items: object, words: str) -> None:
    before = await traces.count()
    response = await api.train(image_dataset_items=items)
    assert reason(response) == (400, "INVALID_REQUEST_BODY")
    assert response.json()["message"].startswith(words)
    assert await traces.count() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"components": None},
        {"components": []},
        {"components": [{"name": "", "args": None}, {}]},
        {"components": [{"name": "resize", "args": [{}]}]},
        {"components": [{"name": "resize", "args": [{"name": "", "value": ""}, {"name": "width", "value": "64"}]}]},
        {"expert_setting": None},
        {"expert_setting": {}},
        {"expert_setting": {"instance_prompt": "", "seed": None, "future_field": {"x": [None]}}},
        {"width": "128", "height": 128.0},
        {"unknown": {"anything": [1, None]}, "enterprise_plan": {}},
    ],
)
async def test_placeholders_and_strange_fields_are_no_obstacle(api: Api, changes: dict[str, Any]) -> None:
    assert (await api.train(**changes)).status_code == 200


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_any_content_type_is_json(api: Api, content_type: str) -> None:
    body: dict[str, Any] = {"name": "a", "base_model": "tiny", "width": 64, "height": 64}
    body["image_dataset_items"] = [{"assets_id": await api.upload()}]
    response = await api.http.post(
        "/v3/training/style", content=msgspec.json.encode(body), headers={"content-type": content_type}
    )
    assert response.status_code == 200, response.text
