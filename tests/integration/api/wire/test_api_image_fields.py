"""Each field of a drawing holds to its one definition, and is read leniently. The cases are derived from it."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from maquette.core.image_specs import (
    EnterprisePlan,
    HiresFixChoice,
    ImageExtra,
    ImageToImage,
    LoraChoice,
    RefinerChoice,
    TextToImage,
)
from maquette.testing.api import Api, Traces, reason

REFUSED_IF_TRUE = {"restore_faces", "enable_transparent_background", "enable_nsfw_detection"}
NAMES = {"model_name", "sd_vae"}
"""Of models: that a name is too long shows before that there is none of that name."""


def peeled(kind: inspect.Type) -> inspect.Type:
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    return kind


def plain(struct: type) -> dict[str, inspect.Type]:
    """The fields of a struct that hold one plain value."""
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    kinds = {field.encode_name: peeled(field.type) for field in info.fields}
    holders = inspect.StructType | inspect.CollectionType | inspect.DictType | inspect.UnionType
    return {name: kind for name, kind in kinds.items() if not isinstance(kind, holders)}


REQUEST = plain(TextToImage)
EXTRA = plain(ImageExtra)
HIRES = plain(HiresFixChoice)


def test_the_cases_cover_every_plain_field() -> None:
    assert list(REQUEST) == [
        "model_name",
        "prompt",
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
        "restore_faces",
        "enable_transparent_background",
    ]
    assert set(plain(ImageToImage)) - set(REQUEST) == {"image_base64", "strength"}
    assert list(EXTRA) == ["response_image_type", "enable_nsfw_detection", "nsfw_detection_level"]
    assert list(HIRES) == ["target_width", "target_height", "strength", "upscaler"]
    assert (list(plain(LoraChoice)), list(plain(RefinerChoice))) == (["model_name", "strength"], ["switch_at"])
    assert list(plain(EnterprisePlan)) == ["enabled"]


def good(name: str, kind: inspect.Type) -> list[Any]:
    """Values that a field takes: its bounds, and its forms on the wire."""
    match kind:
        case inspect.IntType() | inspect.FloatType():
            assert kind.ge is not None
            assert kind.le is not None
            forms = [kind.ge, kind.le, str(kind.ge), f"{kind.le}", float(kind.ge)]
            return forms + [(kind.ge + kind.le) / 2] * isinstance(kind, inspect.FloatType)
        case inspect.StrType() if name in NAMES:
            return []
        case inspect.StrType():
            return ["x", "\u00e9" * (kind.max_length or 0)]
        case inspect.BoolType():
            return [False, "false", 0] + [True, "true"] * (name not in REFUSED_IF_TRUE)
        case inspect.EnumType():
            return [member.value for member in kind.cls]
        case _:
            raise AssertionError(kind)


def bad(kind: inspect.Type) -> list[tuple[Any, str]]:
    """Values that a field refuses, and the words that say why."""
    match kind:
        case inspect.IntType() | inspect.FloatType():
            limits = f"between {kind.ge} and {kind.le}"
            noun = "a whole number" if isinstance(kind, inspect.IntType) else "a number"
            wrong = [((kind.ge or 0) - 1, f"must be {limits}"), ((kind.le or 0) + 1, f"must be {limits}")]
            return wrong + [(value, f"must be {noun} {limits}") for value in ("many", [4], {"x": 4})]
        case inspect.StrType():
            limits = f"a string of 1 to {kind.max_length} characters"
            return [(value, f"must be {limits}") for value in ("x" * ((kind.max_length or 0) + 1), 5, ["x"])]
        case inspect.BoolType():
            return [(value, "must be true or false") for value in ("maybe", 2, [True])]
        case inspect.EnumType():
            known = ", ".join(member.value for member in kind.cls)
            return [(value, f"must be one of {known}") for value in ("nosuch", 7, ["Euler a"])]
        case _:
            raise AssertionError(kind)


@pytest.mark.parametrize("field", REQUEST)
async def test_a_request_within_its_bounds_is_taken(api: Api, field: str) -> None:
    info = inspect.type_info(TextToImage)
    assert isinstance(info, inspect.StructType)
    (definition,) = [one for one in info.fields if one.encode_name == field]
    for value in good(field, REQUEST[field]) + [None, ""] * (not definition.required):
        response = await api.draw(**{field: value})
        assert response.status_code == 200, (value, response.text)


@pytest.mark.parametrize("field", EXTRA)
async def test_an_extra_within_its_bounds_is_taken(api: Api, field: str) -> None:
    for value in [*good(field, EXTRA[field]), None, ""]:
        assert (await api.draw(extra={field: value})).status_code == 200, value


@pytest.mark.parametrize("field", HIRES)
async def test_a_second_pass_within_its_bounds_is_taken(api: Api, field: str) -> None:
    for value in good(field, HIRES[field]):
        chosen = {"target_width": 256, "target_height": 256, "strength": 0.5, field: value}
        assert (await api.draw(hires_fix=chosen)).status_code == 200, value


@pytest.mark.parametrize("field", REQUEST)
async def test_a_request_out_of_bounds_is_refused_by_name(api: Api, traces: Traces, field: str) -> None:
    before = await traces.count()
    cases = bad(REQUEST[field]) + [(None, "is required; it must be ")] * (field in {"model_name", "prompt"})
    for value, words in cases:
        response = await api.draw(**{field: value})
        assert reason(response) == (400, "INVALID_REQUEST_BODY"), value
        assert response.json()["message"].startswith(f"request.{field}: {words}"), response.text
    assert await traces.count() == before


@pytest.mark.parametrize("field", EXTRA)
async def test_an_extra_out_of_bounds_is_refused_by_name(api: Api, field: str) -> None:
    for value, words in bad(EXTRA[field]):
        response = await api.draw(extra={field: value})
        assert reason(response) == (400, "INVALID_REQUEST_BODY"), value
        assert response.json()["message"].startswith(f"extra.{field}: {words}"), response.text


@pytest.mark.parametrize("field", HIRES)
async def test_a_second_pass_out_of_bounds_is_refused_by_name(api: Api, field: str) -> None:
    cases = bad(HIRES[field]) + [(None, "is required; it must be ")] * (field != "upscaler")
    for value, words in cases:
        chosen = {"target_width": 256, "target_height": 256, "strength": 0.5, field: value}
        response = await api.draw(hires_fix=chosen)
        assert reason(response) == (400, "INVALID_REQUEST_BODY"), value
        assert response.json()["message"].startswith(f"request.hires_fix.{field}: {words}"), response.text


def nested_cases() -> Iterator[tuple[str, dict[str, Any], str]]:
    for value, words in bad(plain(LoraChoice)["strength"]):
        yield "txt2img", {"loras": [{"model_name": "x", "strength": value}]}, f"request.loras[0].strength: {words}"
    for value, words in bad(plain(RefinerChoice)["switch_at"]):
        yield "txt2img", {"refiner": {"switch_at": value}}, f"request.refiner.switch_at: {words}"
    for value, words in bad(plain(ImageToImage)["strength"]):
        yield "img2img", {"strength": value}, f"request.strength: {words}"
    yield "txt2img", {"loras": [{"strength": 0.5}]}, "request.loras[0].model_name: is required; it must be a string"
    for field in ("loras", "embeddings"):
        six = [{"model_name": f"x{number}"} for number in range(6)]
        yield "txt2img", {field: six}, f"request.{field}: must be a list of 0 to 5 items, got 6 items"
        yield "txt2img", {field: "x"}, f"request.{field}: must be a list of 0 to 5 items, got "
    yield "txt2img", {"sampler_name": "DPM fast"}, "request.sampler_name: must be one of Euler a, "
    yield "txt2img", {"sampler_name": "DPM adaptive"}, "request.sampler_name: must be one of Euler a, "
    yield "txt2img", {"sampler_name": "DPM++ Karras"}, "request.sampler_name: must be one of Euler a, "
    yield "img2img", {"image_base64": None}, "request.image_base64: is required; it must be a string"
    yield "img2img", {"image_base64": 5}, "request.image_base64: must be a string, got 5"


@pytest.mark.parametrize(("call", "changes", "words"), list(nested_cases()))
async def test_what_is_nested_is_refused_by_name(api: Api, call: str, changes: dict[str, Any], words: str) -> None:
    response = await api.draw(call, **changes)
    assert reason(response) == (400, "INVALID_REQUEST_BODY")
    assert response.json()["message"].startswith(words)


@pytest.mark.parametrize("call", ["txt2img", "img2img"])
@pytest.mark.parametrize(
    ("changes", "extra", "field"),
    [
        ({"controlnet": {"units": [{"model_name": "canny", "image_base64": "x"}]}}, None, "request.controlnet"),
        ({"ip_adapters": [{"model_name": "ip-adapter_sd15.bin"}]}, None, "request.ip_adapters"),
        ({"restore_faces": True}, None, "request.restore_faces"),
        ({"enable_transparent_background": True}, None, "request.enable_transparent_background"),
        ({}, {"enable_nsfw_detection": True}, "extra.enable_nsfw_detection"),
    ],
)
async def test_what_nobody_can_have_is_refused_by_name(
    api: Api, traces: Traces, call: str, changes: dict[str, Any], extra: Any, field: str
) -> None:
    before = await traces.count()
    response = await api.draw(call, extra=extra, **changes)
    assert reason(response) == (400, "INVALID_REQUEST_BODY")
    assert response.json()["message"] == f"{field}: is not supported by this server; leave it out"
    assert await traces.count() == before


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        ({"custom_storage": {"aws_s3": {"region": "us", "bucket": "b", "path": "/"}}}, "extra.custom_storage.aws_s3"),
        ({"enterprise_plan": {"enabled": True}}, "extra.enterprise_plan.enabled"),
    ],
)
async def test_what_an_operator_could_open_is_not_allowed(api: Api, extra: Any, field: str) -> None:
    response = await api.draw(extra=extra)
    assert reason(response) == (403, "FEATURE_NOT_ALLOWED")
    assert response.json()["message"].startswith(f"{field}: ")


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://example.com/", "example.com/done", "/done", "http://", "https:///x", "http://a b/", "http://x:99999/"),
        *("http://a..b/", "http://[::1/", "http://127.0.0.1/", "http://169.254.169.254/latest", "http://localhost/", 5),
    ],
)
async def test_a_webhook_has_an_address(api: Api, url: object) -> None:
    response = await api.draw(extra={"webhook": {"url": url}})
    assert reason(response) == (400, "INVALID_REQUEST_BODY")
    assert response.json()["message"].startswith("extra.webhook.url: must ")


PLACEHOLDERS: list[dict[str, Any]] = [
    {"loras": [{"model_name": "", "strength": None}], "embeddings": [{"model_name": ""}]},
    {"loras": None, "embeddings": [], "refiner": {"switch_at": None}, "sd_vae": ""},
    {"hires_fix": {"target_width": None, "target_height": None, "strength": None, "upscaler": None}},
    {"controlnet": {"units": []}, "ip_adapters": []},
    {"controlnet": {"units": [{"model_name": "", "image_base64": None}]}, "ip_adapters": [{}]},
    {"steps": None, "guidance_scale": None, "sampler_name": None, "seed": None, "clip_skip": None, "image_num": None},
    {"width": None, "height": None, "negative_prompt": None},
    {"extra": {}, "future_field": {"x": [None]}},
    {"width": "256", "height": 256.0, "steps": "20", "guidance_scale": "7.5", "seed": "-1"},
]


@pytest.mark.parametrize("call", ["txt2img", "img2img"])
@pytest.mark.parametrize("changes", PLACEHOLDERS)
async def test_placeholders_and_strange_fields_are_no_obstacle(api: Api, call: str, changes: dict[str, Any]) -> None:
    response = await api.draw(call, **changes)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"custom_storage": {}, "enterprise_plan": {}, "webhook": None},
        {"custom_storage": {"aws_s3": None}, "enterprise_plan": {"enabled": False}},
        {"webhook": {"url": "", "test_mode": {"enabled": False, "return_task_status": ""}}},
        {"webhook": {"url": "https://example.com/done?order=7&x=%20"}},
        {"response_image_type": "jpeg", "enable_nsfw_detection": False, "nsfw_detection_level": 0},
    ],
)
async def test_extras_that_clients_send_are_no_obstacle(api: Api, extra: dict[str, Any]) -> None:
    assert (await api.draw(extra=extra)).status_code == 200


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "request: is required; it must be an object"),
        ({"request": 5}, "request: must be an object, got 5"),
        ({"request": []}, "request: must be an object, got 0 items"),
        ({"request": {"model_name": "tiny"}}, "request.prompt: is required; it must be a string of 1 to 1024"),
        (
            {"request": {"model_name": "tiny", "prompt": "x", "image_base64": "x"}, "extra": 5},
            "extra: must be an object, got 5",
        ),
        ([], "body: must be an object, got 0 items"),
    ],
)
async def test_bodies_of_another_shape_are_refused(api: Api, body: object, words: str) -> None:
    for call in ("txt2img", "img2img"):
        response = await api.http.post(f"/v3/async/{call}", content=msgspec.json.encode(body))
        assert reason(response) == (400, "INVALID_REQUEST_BODY")
        assert response.json()["message"].startswith(words)
