"""Settings come from the environment, and the manual knows them all."""

from pathlib import Path

import pytest
from msgspec.structs import fields

from maquette.core.errors import InvalidRequest
from maquette.server.assets.service import LATEST
from maquette.server.settings import LogFormat, Settings, load_settings, settings_table, variable
from maquette.serving.base import PROGRAM, PoolSettings

MANUAL = Path(__file__).parents[3] / "docs" / "operations.md"
API = MANUAL.with_name("api.md")


def test_the_manual_has_the_very_table() -> None:
    assert settings_table() in MANUAL.read_text()


def test_every_setting_is_in_the_table() -> None:
    rows = settings_table().splitlines()
    assert [row.split("`")[1] for row in rows[2:]] == [variable(field.name) for field in fields(Settings)]


def test_defaults() -> None:
    settings = load_settings({})
    assert settings == Settings()
    assert (settings.upload_ttl, settings.max_upload_bytes, settings.max_pixels) == (600, 30_000_000, 40_000_000)
    assert settings.database == f"sqlite:///{Path.cwd()}/maquette-data/maquette.db"
    assert settings.storage == f"file://{Path.cwd()}/maquette-data/objects"


def test_the_environment_counts_and_the_command_line_wins() -> None:
    environment = {
        "MAQUETTE_DATA_DIR": "/somewhere",
        "MAQUETTE_UPLOAD_TTL": "60",
        "MAQUETTE_LOG_FORMAT": "json",
        "MAQUETTE_MAX_PIXELS": "",
        "MAQUETTE_API_KEY": "a client's",
    }
    settings = load_settings(environment, data_dir=Path("/elsewhere"), upload_ttl=None)
    assert settings.data_dir == Path("/elsewhere")
    assert (settings.upload_ttl, settings.log_format, settings.max_pixels) == (60, LogFormat.JSON, 40_000_000)
    assert load_settings(environment).data_dir == Path("/somewhere")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("upload_ttl", "0"),
        ("keep_unused_uploads", "3599"),
        ("max_pictures", "51"),
        ("max_image_num", "9"),
        ("max_image_steps", "101"),
        ("max_image_pixels", "16777217"),
        ("image_url_ttl", "3599"),
        ("keep_images", "3599"),
        ("max_train_steps", "many"),
        ("public_url", "maquette.example"),
        ("public_url", "https://x/?a=b"),
        ("signing_secret", "short"),
        ("log_format", "xml"),
        ("trainer_nice", "20"),
        ("sandbox", "maybe"),
        ("sandbox_side", "100"),
        ("sandbox_side", "200"),
        ("sandbox_steps", "0"),
        ("loop_interval", "nan"),
    ],
)
def test_a_bad_value_names_its_variable(name: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        load_settings({variable(name): value})
    assert refused.value.message.startswith(f"{variable(name)}: ")


def test_only_a_sandbox_starts_programs_that_break_down() -> None:
    usual, sandbox = load_settings({}), load_settings({"MAQUETTE_TRAINER_NICE": "3"}, sandbox=True)
    assert usual.node_settings.program == ("-m", "maquette.trainer")
    assert usual.pool_settings.program == ("-m", "maquette.inference")
    assert sandbox.node_settings.program == ("-m", "maquette.rehearsal.trainer")
    assert sandbox.pool_settings.program == ("-m", "maquette.rehearsal.worker")
    assert (usual.node_settings.nice, sandbox.node_settings.nice) == (10, 3)
    assert not load_settings({"MAQUETTE_SANDBOX": "false"}, sandbox=False).sandbox


def test_an_operator_decides_everything_about_a_pool_but_its_program() -> None:
    drawing = {field.name: 7 for field in fields(Settings) if field.name.startswith("drawing_")} | {
        "drawing_devices": "cpu"
    }
    settings = load_settings({variable(name): str(value) for name, value in drawing.items()}).pool_settings
    decided = {field.name: getattr(settings, field.name) for field in fields(PoolSettings)}
    assert decided.pop("program") == PROGRAM
    assert decided == dict.fromkeys(decided, 7)


def test_unused_uploads_outlast_what_may_still_be_recorded() -> None:
    shortest = load_settings({"MAQUETTE_KEEP_UNUSED_UPLOADS": "3600"}).keep_unused_uploads
    assert shortest >= 2 * LATEST
    assert LATEST == 1800
    assert "half an hour" in API.read_text()


def test_a_secret_is_not_repeated_in_errors() -> None:
    with pytest.raises(InvalidRequest) as refused:
        load_settings({"MAQUETTE_SIGNING_SECRET": "hunter2"})
    assert "hunter2" not in refused.value.message
