"""The operator's commands leave alone what is not theirs, and say what they did."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from maquette.bases.catalogue import BUNDLED_PATH
from maquette.cli import admin
from maquette.testing.commands import Run
from maquette.testing.hub import files_of, hub_server
from maquette.testing.paper_bases import paper_base, paper_checkpoint

NO_TORCH = "ModuleNotFoundError: No module named torch"
WEIGHTS = "diffusion_pytorch_model.safetensors"
MARKUP = "[/x] [red]acme :cat:"
READING = [("keys", "list"), ("keys", "revoke", "abc"), ("bases", "list")]
WRITING = [("keys", "create", "--tenant", "acme"), ("bases", "add", "tiny", "--from", BUNDLED_PATH)]


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logging belongs to the whole process."""
    monkeypatch.setattr(admin, "configure_logs", lambda _format: None)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a server whose trainers run elsewhere; bases need not hold together then."""
    kind, _, words = NO_TORCH.partition(": ")
    (tmp_path / "torch.py").write_text(f"raise {kind}({words!r})")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def at_schema(data_dir: Path, revision: str) -> None:
    with closing(sqlite3.connect(data_dir / "maquette.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = ?", (revision,))


def schema(data_dir: Path) -> str:
    with closing(sqlite3.connect(data_dir / "maquette.db")) as database:
        ((revision,),) = database.execute("SELECT version_num FROM alembic_version").fetchall()
    return revision


@pytest.mark.parametrize("command", READING)
def test_reading_where_nothing_is_says_so_and_creates_nothing(
    run: Run, data_dir: Path, command: tuple[str, ...]
) -> None:
    ended = run(*command, "--data-dir", data_dir)
    assert (ended.code, ended.out) == (1, "")
    assert f"{data_dir}/maquette.db holds nothing of Maquette's" in ended.err
    assert not data_dir.exists()


@pytest.mark.parametrize("command", READING)
def test_reading_gives_an_empty_file_no_tables(run: Run, data_dir: Path, command: tuple[str, ...]) -> None:
    data_dir.mkdir()
    (data_dir / "maquette.db").touch()
    assert run(*command, "--data-dir", data_dir).code == 1
    assert (data_dir / "maquette.db").stat().st_size == 0


@pytest.mark.parametrize("revision", ["0001", "9999"])
@pytest.mark.parametrize("command", [*READING, *WRITING])
def test_another_versions_schema_is_refused_and_not_migrated(
    run: Run, data_dir: Path, command: tuple[str, ...], revision: str
) -> None:
    run("keys", "create", "--tenant", "acme", "--data-dir", data_dir)
    ours = schema(data_dir)
    at_schema(data_dir, revision)
    ended = run(*command, "--data-dir", data_dir)
    assert (ended.code, ended.out) == (1, "")
    assert f"has schema {revision}, this version of Maquette needs {ours}" in ended.err
    assert ("`maquette serve` to migrate" in ended.err) == (revision == "0001")
    assert schema(data_dir) == revision


def test_a_key_is_made_listed_and_revoked(run: Run, data_dir: Path) -> None:
    created = run("keys", "create", "--tenant", MARKUP, "--data-dir", data_dir)
    key = created.out.strip()
    assert (created.out, created.err) == (f"{key}\n", "")
    assert MARKUP in run("keys", "list", "--data-dir", data_dir).out
    ((lookup, good),) = [(row["lookup"], row["revoked_at"] is None) for row in listed(run, data_dir)]
    assert (key.removeprefix("mq_")[: len(lookup)], good) == (lookup, True)
    revoked = run("keys", "revoke", key, "--data-dir", data_dir)
    assert (revoked.code, revoked.out) == (0, "")
    assert revoked.err == f"revoked the key {lookup} of {MARKUP}\n"
    assert run("keys", "revoke", key, "--data-dir", data_dir).code == 1
    assert listed(run, data_dir)[0]["revoked_at"] is not None


def test_what_keys_commands_did_is_told_in_json(run: Run, data_dir: Path) -> None:
    created = json.loads(run("keys", "create", "--tenant", "acme", "--json", "--data-dir", data_dir).out)
    assert created["tenant"] == "acme"
    revoked = json.loads(run("keys", "revoke", created["key"], "--json", "--data-dir", data_dir).out)
    assert [revoked] == listed(run, data_dir)


def test_a_base_is_added_and_listed(run: Run, data_dir: Path) -> None:
    added = run("bases", "add", MARKUP, "--from", BUNDLED_PATH, "--json", "--data-dir", data_dir)
    base = json.loads(added.out)
    assert added.err == f"registered {MARKUP}: checkpoint, sd15, {base['sha256'][:10]}, {BUNDLED_PATH}\n"
    (listed_base,) = json.loads(run("bases", "list", "--json", "--data-dir", data_dir).out)
    assert listed_base == {name: base[name] for name in ("name", "kind", "family", "location", "sha256")} | {
        "aliases": []
    }
    header, row = run("bases", "list", "--data-dir", data_dir).out.splitlines()
    assert header.split() == ["name", "kind", "family", "hash", "aliases", "location"]
    assert row.startswith(f"{MARKUP}  checkpoint  sd15")
    assert row.endswith(str(BUNDLED_PATH))


def test_a_vae_is_added_and_as_another_kind_it_is_told_what_it_is(run: Run, data_dir: Path) -> None:
    added = run("bases", "add", "soft", "--from", BUNDLED_PATH / "vae", "--kind", "vae", "--data-dir", data_dir)
    assert added.err.startswith("registered soft: vae, sd15, ")
    for kind, words in {
        "checkpoint": "expected a checkpoint, which is a folder in diffusers layout with a model_index.json, or one",
        "refiner": "expected a refiner, which is a folder in diffusers layout with a model_index.json, or one",
        "embedding": "expected an embedding, which is a .safetensors file, found a VAE's folder; add it with --kind",
        "upscaler": "kind: the one upscaler there is, Latent, needs no file",
    }.items():
        ended = run("bases", "add", "x", "--from", BUNDLED_PATH / "vae", "--kind", kind, "--data-dir", data_dir)
        assert ended.code == 1
        assert words in ended.err
    assert [base["kind"] for base in json.loads(run("bases", "list", "--json", "--data-dir", data_dir).out)] == ["vae"]


def test_an_alias_is_given_replaced_and_taken_away(run: Run, data_dir: Path) -> None:
    def aliases() -> dict[str, list[str]]:
        listed_bases = json.loads(run("bases", "list", "--json", "--data-dir", data_dir).out)
        return {base["name"]: base["aliases"] for base in listed_bases}

    for name in ("one", "two"):
        run("bases", "add", name, "--from", BUNDLED_PATH, "--data-dir", data_dir)
    assert run("bases", "alias", "other", "one", "--data-dir", data_dir).err == "other is one from now on\n"
    assert aliases() == {"one": ["other"], "two": []}
    run("bases", "alias", "other", "two", "--data-dir", data_dir)
    assert aliases() == {"one": [], "two": ["other"]}
    assert "two  " in run("bases", "list", "--data-dir", data_dir).out
    assert run("bases", "alias", "other", "--remove", "--data-dir", data_dir).err == "removed the alias other\n"
    assert aliases() == {"one": [], "two": []}
    for arguments, words in {
        ("other", "--remove"): "there is no alias 'other'; this server has none yet",
        ("other", "three"): "no model 'three' is registered; this server has one, two",
        ("one", "two"): "'one' is a registered model's own name",
        ("other",): "give the model that the alias shall mean, or --remove",
        ("other", "one", "--remove"): "give the model that the alias shall mean, or --remove",
    }.items():
        ended = run("bases", "alias", *arguments, "--data-dir", data_dir)
        assert ended.code == 1
        assert words in ended.err


def test_what_is_no_base_is_words(run: Run, data_dir: Path, tmp_path: Path) -> None:
    ended = run("bases", "add", "x", "--from", tmp_path, "--data-dir", data_dir)
    assert ended.code == 1
    assert "expected a checkpoint, which is a folder in diffusers layout" in ended.err
    assert "found a folder with neither model_index.json nor config.json" in ended.err


@pytest.mark.usefixtures("without_torch")
def test_a_base_is_fetched_from_a_hub_with_a_bar_and_told_where_it_is_from(
    run: Run, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = paper_checkpoint(tmp_path / "a.safetensors")
    with hub_server() as hub:
        hub.repositories["studio/base"] = files_of(paper_base(tmp_path / "published"))
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        added = run("bases", "add", "mine", "--from", "studio/base", "--json", "--data-dir", data_dir)
        commit = hub.commit("studio/base")
    base = json.loads(added.out)
    bar, origin, untried, told = added.err.splitlines()
    assert bar.startswith("download   ━━━")
    assert origin == f"from studio/base at commit {commit}"
    assert base["origins"] == [{"source": "studio/base", "commit": commit}]
    assert untried == f"not tried: {NO_TORCH}; what is damaged in it is told when it is first used"
    assert told == f"registered mine: checkpoint, sd15, {base['sha256'][:10]}, {data_dir}/bases/mine"
    # Of the one base that is registered, with no hub to ask.
    added = run("bases", "add", "tuned", "--from", checkpoint, "--data-dir", data_dir)
    file, configs, _, told = added.err.splitlines()
    assert (file, configs) == (f"from {checkpoint}", f"from {data_dir}/bases/mine")
    assert told.startswith("registered tuned: checkpoint, sd15, ")
    added = run("bases", "add", "more", "--from", checkpoint, "--configs", "other/base", "--data-dir", data_dir)
    assert (added.code, added.out) == (1, "")
    assert f"{hub.address} can't be reached" in added.err


@pytest.mark.torch
def test_a_damaged_base_is_not_registered(run: Run, data_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(BUNDLED_PATH, tmp_path / "base")
    shutil.copyfile(folder / "vae" / WEIGHTS, folder / "unet" / WEIGHTS)
    added = run("bases", "add", "mine", "--from", folder, "--data-dir", data_dir)
    assert (added.code, added.out) == (1, "")
    assert f"{folder}/unet lacks 286 weights of the unet: conv_in.bias, " in added.err
    assert json.loads(run("bases", "list", "--json", "--data-dir", data_dir).out) == []


def test_a_name_that_is_taken_is_told_before_anything_is_fetched(
    run: Run, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("bases", "add", "one", "--from", BUNDLED_PATH, "--data-dir", data_dir)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    added = run("bases", "add", "one.safetensors", "--from", "studio/base", "--data-dir", data_dir)
    assert "'one.safetensors' and 'one', which is registered, mean the same" in added.err


def test_every_kind_is_added_for_the_family_that_it_is_of(run: Run, data_dir: Path, tmp_path: Path) -> None:
    word, other = tmp_path / "word.safetensors", tmp_path / "other.safetensors"
    save_file({"emb_params": np.zeros((2, 128), np.float32)}, word)
    save_file({"clip_l": np.zeros((2, 768), np.float32), "clip_g": np.zeros((2, 1280), np.float32)}, other)
    for kind, source in (("embedding", word), ("refiner", BUNDLED_PATH), ("checkpoint", BUNDLED_PATH)):
        added = run("bases", "add", f"a-{kind}", "--from", source, "--kind", kind, "--data-dir", data_dir)
        assert added.err.startswith(f"registered a-{kind}: {kind}, sd15, ")
    added = run("bases", "add", "other", "--from", other, "--kind", "embedding", "--data-dir", data_dir)
    assert added.err.startswith("registered other: embedding, sdxl, ")


def test_one_name_means_one_model(run: Run, data_dir: Path) -> None:
    def add(name: str) -> Any:
        return run("bases", "add", name, "--from", BUNDLED_PATH, "--data-dir", data_dir)

    assert add("one").code == add("two").code == 0
    for name in ("one.safetensors", "maquette-tiny.safetensors"):
        ended = add(name)
        assert ended.code == 1
        assert " name: " in ended.err
    assert run("bases", "alias", "1.0", "one", "--data-dir", data_dir).code == 0
    for alias in ("two.safetensors", "two.ckpt"):
        ended = run("bases", "alias", alias, "one", "--data-dir", data_dir)
        assert (ended.code, f"{alias!r} is a registered model's own name" in ended.err) == (1, True)
    assert add("1.0.safetensors").code == 0
    aliases = {
        base["name"]: base["aliases"] for base in json.loads(run("bases", "list", "--json", "--data-dir", data_dir).out)
    }
    assert aliases == {"one": [], "two": [], "1.0.safetensors": []}


@pytest.mark.parametrize("command", [("serve", "--port", "0"), *READING[:1], *WRITING[:1]])
def test_a_database_that_is_away_is_named_without_its_password(
    run: Run, data_dir: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("MAQUETTE_DATABASE_URL", "postgresql://user:hunter2@127.0.0.1:1/name?password=hunter3")
    ended = run(*command, "--data-dir", data_dir)
    assert (ended.code, ended.out) == (1, "")
    assert "postgresql://user:***@127.0.0.1:1/name can't be opened: " in ended.err
    assert "hunter" not in ended.err


def test_a_file_that_is_no_database_is_words(run: Run, data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "maquette.db").write_text("no database" * 100)
    ended = run("keys", "list", "--data-dir", data_dir)
    assert ended.code == 1
    assert "file is not a database" in ended.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--host", "a..b"), "can't listen on a..b:0"),
        (("--data-dir", "/proc/x"), "/proc/x: No such file or directory"),
    ],
)
def test_serve_says_what_it_can_not_use(run: Run, data_dir: Path, arguments: tuple[str, ...], words: str) -> None:
    ended = run("serve", "--port", "0", "--data-dir", data_dir, *arguments)
    assert (ended.code, ended.out) == (1, "")
    assert words in ended.err


def listed(run: Run, data_dir: Path) -> list[dict[str, Any]]:
    return json.loads(run("keys", "list", "--json", "--data-dir", data_dir).out)
