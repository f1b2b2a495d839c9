"""Base models: what an operator may register, and what a training may name."""

import json
import shutil
from pathlib import Path

import pytest
from sqlalchemy import delete

from maquette.bases.catalogue import BUNDLED_BASE, BUNDLED_PATH
from maquette.core.basefolder import BrokenBase
from maquette.core.errors import InvalidRequest
from maquette.core.specs import MAX_NAME
from maquette.db.engine import Database
from maquette.db.tables import bases as bases_table
from maquette.server.bases import service as bases
from maquette.server.bases.repository import Base
from maquette.testing.api import Api, Traces, reason
from maquette.testing.factories import SHA256


async def register(database: Database, name: str, family: str) -> None:
    async with database.write() as conn:
        await bases.register(conn, Base(name=name, kind="checkpoint", family=family, location="/x", sha256=SHA256))


async def refusal(api: Api, base_model: str) -> str:
    response = await api.train(base_model=base_model)
    assert reason(response) == (400, "INVALID_REQUEST_BODY")
    return response.json()["message"]


async def test_a_base_whose_family_is_gone_is_refused_in_words(api: Api, database: Database, traces: Traces) -> None:
    await register(database, "other", "sd35")
    items = [{"assets_id": await api.upload()}]
    before = await traces.count()
    response = await api.train(base_model="other", image_dataset_items=items)
    assert reason(response) == (400, "INVALID_REQUEST_BODY")
    message = response.json()["message"]
    assert message == "base_model: 'other' is of the family sd35, and this server supports sd15, sdxl, flux1 only"
    assert await traces.count() == before


async def test_bases_that_can_not_be_trained_are_not_offered(api: Api, database: Database) -> None:
    await register(database, "other", "sd35")
    assert await refusal(api, "x") == "base_model: unknown base model 'x'; this server has tiny"
    async with database.write() as conn:
        await conn.execute(delete(bases_table).where(bases_table.c.name == "tiny"))
    assert await refusal(api, "x") == "base_model: unknown base model 'x'; this server has none yet"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("v1-5-pruned-emaonly", "(`maquette bases add v1-5-pruned-emaonly --from …`); this server has tiny"),
        ("somboy_v10_172675", "(`maquette bases add somboy_v10_172675 --from …`); this server has tiny"),
        ("yesmixXL_v10_283329", "(`maquette bases add yesmixXL_v10_283329 --from …`); this server has tiny"),
    ],
)
async def test_a_published_name_says_what_is_missing(api: Api, name: str, words: str) -> None:
    assert words in await refusal(api, name)


async def test_a_folder_of_a_family_that_is_not_here_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "UnheardOfPipeline"}))
    with pytest.raises(BrokenBase, match="'UnheardOfPipeline'; this installation has sd15"):
        await bases.inspect_folder("xl", tmp_path)


async def test_the_bundled_name_is_taken(tmp_path: Path) -> None:
    copy = shutil.copytree(BUNDLED_PATH, tmp_path / "base")
    with pytest.raises(InvalidRequest, match="name: 'maquette-tiny' is the base that comes with Maquette"):
        await bases.inspect_folder(BUNDLED_BASE.name, copy)
    assert (await bases.inspect_folder(BUNDLED_BASE.name, BUNDLED_PATH)).location == str(BUNDLED_PATH.resolve())
    assert (await bases.inspect_folder("mine", copy)).family == BUNDLED_BASE.family


@pytest.mark.parametrize("name", ["", "x" * (MAX_NAME + 1)])
async def test_a_name_has_one_to_255_characters(name: str) -> None:
    with pytest.raises(InvalidRequest, match="name: must be a string of 1 to 255 characters, got"):
        await bases.inspect_folder(name, BUNDLED_PATH)


async def test_the_same_name_again_replaces_a_base(database: Database) -> None:
    await register(database, "mine", "sd15")
    await register(database, "mine", "sd35")
    async with database.read() as conn:
        assert [(base.name, base.family) for base in await bases.list_all(conn)] == [("mine", "sd35")]
