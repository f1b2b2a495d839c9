"""Models are had from where their operator says they are: this machine, or a hub, which is one on loopback here."""

import errno
import json
import shutil
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from maquette.bases import making
from maquette.bases.catalogue import BUNDLED_PATH, BaseKind
from maquette.bases.hub import Hub
from maquette.core.basefolder import BrokenBase, base_sha256
from maquette.core.errors import InvalidRequest
from maquette.core.files import file_sha256
from maquette.server.bases import adding
from maquette.server.bases.adding import Added, add
from maquette.server.bases.repository import Base
from maquette.testing.hub import HubServer, files_of, hub_server
from maquette.testing.paper_bases import SIZES, WEIGHTS, paper_base, paper_checkpoint, paper_weights

REPOSITORY = "studio/base"
PUBLISHED = "stable-diffusion-v1-5/stable-diffusion-v1-5"
"""Where the configurations of Stable Diffusion 1.x are published."""
CHECKPOINT = "a.safetensors"

WEIGHTS_OF_VAE = f"vae/{WEIGHTS['vae']}"

Add = Callable[..., Added]


@pytest.fixture
def server() -> Generator[HubServer]:
    with hub_server() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where made models lie."""
    return tmp_path / "data" / "bases"


@pytest.fixture
def add_it(server: HubServer, folder: Path) -> Add:
    """Adds something as `mine`, or what it is given."""

    def add_it(source: object, name: str = "mine", **given: Any) -> Added:
        settings: dict[str, Any] = {
            "kind": BaseKind.CHECKPOINT,
            "folder": folder,
            "checkpoints": (),
            "environment": server.environment,
            "progress": lambda *_: None,
            "try_out": lambda _: None,
        }
        return add(name, str(source), **settings | given)

    return add_it


def registered(*roots: Path, family: str = "sd15") -> Sequence[Base]:
    return [
        Base(name=root.name, kind="checkpoint", family=family, location=str(root), sha256=base_sha256(root))
        for root in roots
    ]


def names_in(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def asked_for(server: HubServer) -> list[str]:
    """The files that the hub was asked for, each once."""
    paths = [asked.what.partition("/resolve/")[2].partition("/")[2] for asked in server.asked]
    return list(dict.fromkeys(path for path in paths if path))


class TestHere:
    def test_a_folder_stays_where_it_is(self, add_it: Add, folder: Path) -> None:
        added = add_it(BUNDLED_PATH)
        assert (added.base.location, added.origins) == (str(BUNDLED_PATH.resolve()), ())
        assert not folder.exists()

    def test_a_path_that_could_be_a_repository_is_a_path(
        self, add_it: Add, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: HubServer
    ) -> None:
        paper_base(tmp_path / REPOSITORY)
        monkeypatch.chdir(tmp_path)
        assert add_it(REPOSITORY).base.location == str(tmp_path / REPOSITORY)
        assert server.asked == []

    @pytest.mark.parametrize("source", ["./studio/base", "/studio/base", "nowhere", "nowhere/at.safetensors"])
    def test_what_can_only_be_a_path_asks_no_hub(self, add_it: Add, server: HubServer, source: str) -> None:
        with pytest.raises(
            BrokenBase, match=f"{source}: expected a checkpoint, .* or one .safetensors file, found noth"
        ):
            add_it(source)
        assert server.asked == []


class TestTrial:
    """Bases are tried where they lie, before they can be used."""

    @pytest.mark.parametrize(("kind", "part"), [("checkpoint", ""), ("refiner", ""), ("vae", "vae")])
    def test_one_that_can_not_be_tried_is_added_and_says_so(
        self, add_it: Add, tmp_path: Path, kind: str, part: str
    ) -> None:
        base, tried = shutil.copytree(BUNDLED_PATH, tmp_path / "base") / part, list[str]()

        def try_out(base: Base) -> str | None:
            tried.append(base.location)
            return "no torch"

        assert add_it(base, kind=BaseKind(kind)).untried is None
        assert add_it(base, kind=BaseKind(kind), try_out=try_out).untried == "no torch"
        assert tried == [str(base)]

    def test_one_that_is_not_fit_takes_no_others_place(
        self, add_it: Add, server: HubServer, folder: Path, tmp_path: Path
    ) -> None:
        def refuse(base: Base) -> str | None:
            assert base.location == str(folder / "mine.part")
            raise BrokenBase("damaged")

        server.repositories[REPOSITORY] = files_of(paper_base(tmp_path / "base"))
        before = add_it(REPOSITORY).base
        (tmp_path / "base" / "unet" / "config.json").write_text('{"sample_size": 32}')
        server.repositories[REPOSITORY] = files_of(tmp_path / "base")
        with pytest.raises(BrokenBase, match="damaged"):
            add_it(REPOSITORY, try_out=refuse)
        assert base_sha256(folder / "mine") == before.sha256
        assert add_it(REPOSITORY).base.sha256 != before.sha256

    @pytest.mark.parametrize(("source", "kind"), [(BUNDLED_PATH, "checkpoint"), (BUNDLED_PATH / "vae", "vae")])
    def test_the_bundled_base_is_not_tried(self, add_it: Add, source: Path, kind: str) -> None:
        assert add_it(source, kind=BaseKind(kind), try_out=lambda _: "tried").untried is None

    def test_an_embedding_is_not_tried(self, add_it: Add, tmp_path: Path) -> None:
        save_file({"emb_params": np.zeros((2, 128), np.float32)}, tmp_path / "word.safetensors")
        added = add_it(tmp_path / "word.safetensors", kind=BaseKind.EMBEDDING, try_out=lambda _: "tried")
        assert added.untried is None


class TestOneFile:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        return paper_checkpoint(tmp_path / CHECKPOINT)

    def test_it_gets_a_folder_with_the_configurations_that_are_named(
        self, add_it: Add, file: Path, folder: Path, tmp_path: Path
    ) -> None:
        configs = paper_base(tmp_path / "configs")
        added = add_it(file, configs=str(configs))
        root = folder / "mine"
        assert (added.base.location, added.base.family) == (str(root), "sd15")
        assert added.base.sha256 == base_sha256(root)
        assert names_in(root) == [
            ".origin.json",
            CHECKPOINT,
            "model_index.json",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "tokenizer/tokenizer_config.json",
            "unet/config.json",
            "vae/config.json",
        ]
        assert (root / CHECKPOINT).samefile(file)
        assert [str(origin) for origin in added.origins] == [str(file), str(configs)]
        assert json.loads((root / ".origin.json").read_text()) == [
            {"source": str(file), "sha256": file_sha256(file)},
            {"source": str(configs)},
        ]
        assert [path.name for path in folder.iterdir()] == ["mine"]

    @pytest.fixture
    def no_links(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As where the file lies on another disk."""

        def refuse(*_: object) -> None:
            raise OSError(errno.EXDEV, "Invalid cross-device link")

        monkeypatch.setattr(Path, "hardlink_to", refuse)

    @pytest.mark.usefixtures("no_links")
    def test_where_there_are_no_hard_links_it_is_copied_and_compared(
        self, add_it: Add, file: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        configs = str(paper_base(tmp_path / "configs"))
        add_it(file, configs=configs)
        copy = folder / "mine" / CHECKPOINT
        assert not copy.samefile(file)
        assert copy.read_bytes() == file.read_bytes()

        def damage(_source: Path, path: Path) -> None:
            path.write_bytes(file.read_bytes()[:-1] + b"?")

        monkeypatch.setattr(making.shutil, "copyfile", damage)
        with pytest.raises(BrokenBase, match="of which it is a copy; the disk may be failing"):
            add_it(file, configs=configs)

    @pytest.mark.usefixtures("no_links")
    def test_the_copy_of_an_earlier_try_is_used_if_it_is_whole(
        self, add_it: Add, file: Path, folder: Path, tmp_path: Path
    ) -> None:
        copy, configs = folder / "mine.part" / CHECKPOINT, str(paper_base(tmp_path / "configs"))
        copies: list[int] = []
        for left in (None, file.read_bytes()[:-1] + b"?", file.read_bytes()[:-1]):
            if left is not None:
                copy.write_bytes(left)
            for _ in range(2):
                with pytest.raises(BrokenBase, match="does not exist"):
                    add_it(file, configs=str(tmp_path / "nowhere"))
                assert copy.read_bytes() == file.read_bytes()
                copies.append(copy.stat().st_mtime_ns)
        assert copies[0] == copies[1] != copies[2] == copies[3] != copies[4] == copies[5]
        add_it(file, configs=configs)
        assert (folder / "mine" / CHECKPOINT).stat().st_mtime_ns == copies[5]

    @pytest.mark.usefixtures("no_links")
    def test_what_is_no_checkpoint_is_not_copied(self, add_it: Add, folder: Path, tmp_path: Path) -> None:
        save_file({"emb_params": np.zeros((4, 4), np.float32)}, tmp_path / CHECKPOINT)
        with pytest.raises(BrokenBase, match=f"{tmp_path / CHECKPOINT}: expected a checkpoint"):
            add_it(tmp_path / CHECKPOINT)
        assert names_in(folder / "mine.part") == []

    @pytest.mark.usefixtures("no_links")
    def test_no_space_for_the_copy_is_told(
        self, add_it: Add, file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        free = shutil.disk_usage("/")._replace(free=100)
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda _: free)
            with pytest.raises(BrokenBase, match=f"no space for {file}: [\\d,]+ bytes are needed in .*, 100 are free"):
                add_it(file)

        def fill_up(_source: Path, path: Path) -> None:
            path.write_bytes(b"begun")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(making.shutil, "copyfile", fill_up)
        with pytest.raises(BrokenBase, match=f"no space for {file}: .*, and run the same command again"):
            add_it(file)
        assert names_in(folder / "mine.part") == []

    def test_weights_that_it_lacks_come_with_the_configurations(
        self, add_it: Add, folder: Path, tmp_path: Path
    ) -> None:
        file = paper_checkpoint(tmp_path / CHECKPOINT, changes={"decoder.conv_in.weight": None})
        configs = paper_base(tmp_path / "configs")
        add_it(file, configs=str(configs))
        weights = [name for name in names_in(folder / "mine") if name.endswith(".safetensors")]
        assert weights == [CHECKPOINT, f"vae/{WEIGHTS['vae']}"]
        with pytest.raises(BrokenBase, match=r"a.safetensors has no weights of the vae"):
            add_it(file, configs=str(paper_base(tmp_path / "bare", weights=False)))

    def test_configurations_come_from_the_registered_base_that_fits(
        self, add_it: Add, file: Path, tmp_path: Path
    ) -> None:
        fitting, other = paper_base(tmp_path / "fitting"), paper_base(tmp_path / "other")
        (other / "unet" / "config.json").write_text('{"in_channels": 9}')
        gone = Base(name="gone", kind="checkpoint", family="sd15", location=str(tmp_path / "gone"), sha256="0")
        added = add_it(file, checkpoints=[gone, *registered(other, fitting)])
        assert added.origins[1].source == str(fitting)
        assert add_it(file, checkpoints=registered(other, fitting), configs="fitting").origins == added.origins
        with pytest.raises(
            BrokenBase, match=r"unet/config.json says in_channels 9, the file has 4; name others with --c"
        ):
            add_it(file, checkpoints=registered(other, fitting), configs="other")

    def test_configurations_beside_it_come_first(self, add_it: Add, tmp_path: Path) -> None:
        own, other = paper_base(tmp_path / "own"), paper_base(tmp_path / "other")
        file = paper_checkpoint(own / CHECKPOINT)
        assert add_it(file, checkpoints=registered(other)).origins[1].source == str(own)
        assert add_it(file, checkpoints=registered(other), configs="other").origins[1].source == str(other)

    def test_a_registered_base_without_the_weights_that_a_file_lacks_does_not_fit(
        self, add_it: Add, tmp_path: Path
    ) -> None:
        file = paper_checkpoint(tmp_path / CHECKPOINT, changes={"decoder.conv_in.weight": None})
        bare, whole = paper_base(tmp_path / "bare", weights=False), paper_base(tmp_path / "whole")
        paper_checkpoint(bare / "all.safetensors")
        assert add_it(file, checkpoints=registered(bare, whole)).origins[1].source == str(whole)

    def test_registered_bases_that_say_the_same_are_one(self, add_it: Add, file: Path, tmp_path: Path) -> None:
        one, two = paper_base(tmp_path / "one"), paper_base(tmp_path / "two")
        paper_weights(two / "vae" / WEIGHTS["vae"], 99)
        assert add_it(file, checkpoints=registered(one, two)).origins[1].source == str(one)

    def test_where_they_differ_or_there_is_none_the_published_ones_are_fetched(
        self, add_it: Add, file: Path, tmp_path: Path, server: HubServer
    ) -> None:
        one, two = paper_base(tmp_path / "one"), paper_base(tmp_path / "two")
        (two / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "v_prediction"}')
        server.repositories[PUBLISHED] = files_of(paper_base(tmp_path / "published"))
        for checkpoints in ((), registered(one, two)):
            _, configs = add_it(file, checkpoints=checkpoints).origins
            assert str(configs) == f"{PUBLISHED} at commit {server.commit(PUBLISHED)}"
        assert not [path for path in asked_for(server) if path.endswith(".safetensors")]

    def test_a_file_that_does_not_tell_its_configurations_asks_for_them(self, add_it: Add, tmp_path: Path) -> None:
        unet = np.zeros((8, 4, 3, 3), np.float16)
        tokens = np.zeros((20, 12), np.float16)
        file = tmp_path / "v2.safetensors"
        names = ("model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.model.token_embedding.weight")
        save_file(dict(zip(names, (unet, tokens), strict=True)), file)
        with pytest.raises(
            BrokenBase, match=r"v2.safetensors does not tell which configurations of sd15 .* with --configs"
        ):
            add_it(file)

    @pytest.mark.parametrize(
        ("tensor", "words"),
        [
            ("unet.down_blocks.0.lora_A.weight", "found a LoRA's file"),
            ("first_stage_model.decoder.conv_in.weight", "found a VAE's file, which diffusers can convert to a folder"),
            ("emb_params", "found an embedding's file"),
            ("model.diffusion_model.input_blocks.0.0.weight", "found one of sd15 without cond_stage_model.transformer"),
        ],
    )
    def test_what_is_no_checkpoint_is_told_what_it_is(
        self, add_it: Add, tmp_path: Path, tensor: str, words: str
    ) -> None:
        file = tmp_path / CHECKPOINT
        save_file({tensor: np.zeros((4, 4), np.float32)}, file)
        with pytest.raises(BrokenBase, match=f"a.safetensors: expected a checkpoint of sd15, sdxl, flux1, {words}"):
            add_it(file)

    def test_a_damaged_file_is_told(self, add_it: Add, file: Path) -> None:
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(BrokenBase, match="its header speaks of"):
            add_it(file)

    def test_configurations_of_another_family_are_refused(
        self, add_it: Add, file: Path, tmp_path: Path, server: HubServer
    ) -> None:
        other = paper_base(tmp_path / "other")
        index = json.loads((other / "model_index.json").read_text())
        (other / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionXLPipeline"}))
        server.repositories["studio/xl"] = files_of(other)
        for configs in (str(other), "studio/xl"):
            with pytest.raises(
                BrokenBase, match=f"{configs} has configurations of sdxl, but .*a.safetensors is of sd15"
            ):
                add_it(file, configs=configs)

    def test_configurations_are_for_such_files_alone(self, add_it: Add, file: Path, tmp_path: Path) -> None:
        configs = str(paper_base(tmp_path / "configs"))
        for source, kind in ((BUNDLED_PATH, BaseKind.CHECKPOINT), (file, BaseKind.EMBEDDING)):
            with pytest.raises(InvalidRequest, match="configs: only a checkpoint in one file needs them"):
                add_it(source, kind=kind, configs=configs)


class TestHub:
    @pytest.fixture(autouse=True)
    def repository(self, server: HubServer, tmp_path: Path) -> Path:
        """A repository as such are, with more in it than a base needs."""
        root = paper_base(tmp_path / "published")
        paper_checkpoint(root / "v1-5-pruned.safetensors")
        paper_checkpoint(root / "v1-5-pruned-emaonly.safetensors")
        for more in ("README.md", "unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors"):
            (root / more).write_bytes(b"not asked for")
        (root / "safety_checker").mkdir()
        paper_weights(root / "safety_checker" / "model.safetensors", 9)
        index = json.loads((root / "model_index.json").read_text())
        checker = {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
        (root / "model_index.json").write_text(json.dumps(index | checker))
        server.repositories[REPOSITORY] = files_of(root)
        return root

    def test_a_base_is_fetched_and_nothing_beside_it(
        self, add_it: Add, server: HubServer, folder: Path, repository: Path
    ) -> None:
        added = add_it(REPOSITORY)
        root = folder / "mine"
        assert added.base.location == str(root)
        assert added.base.sha256 == base_sha256(root)
        expected = [
            ".origin.json",
            "model_index.json",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "text_encoder/model.safetensors",
            "tokenizer/tokenizer_config.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
        ]
        assert names_in(root) == expected
        assert sorted(asked_for(server)) == expected[1:]
        for name in expected[1:]:
            assert (root / name).read_bytes() == (repository / name).read_bytes()
        assert json.loads((root / ".origin.json").read_text()) == [
            {"source": REPOSITORY, "commit": server.commit(REPOSITORY)}
        ]
        assert [str(origin) for origin in added.origins] == [f"{REPOSITORY} at commit {server.commit(REPOSITORY)}"]
        assert [path.name for path in folder.iterdir()] == ["mine"]

    def test_progress_tells_of_all_bytes(self, add_it: Add) -> None:
        told: list[tuple[str, int, int]] = []
        add_it(REPOSITORY, progress=lambda *args: told.append(args))
        assert told[0][:2] == ("model_index.json", 0)
        components = [one for one in told if one[0] != told[0][0]]
        assert len({total for _, _, total in components}) == 1
        assert [done for _, done, _ in components] == sorted(done for _, done, _ in components)
        assert components[-1][1] == components[-1][2]

    def test_what_a_broken_off_one_left_is_used(self, add_it: Add, server: HubServer, folder: Path) -> None:
        place = f"{REPOSITORY}/vae/diffusion_pytorch_model.safetensors"
        cut = 40
        server.cuts[place] = [cut, *[0] * 5]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("time.sleep", lambda _: None)
            with pytest.raises(BrokenBase, match="run the same command again, it goes on from there"):
                add_it(REPOSITORY)
        assert [path.name for path in folder.iterdir()] == ["mine.part"]
        had = [name for name in names_in(folder / "mine.part") if not name.startswith("vae/.")]
        server.asked.clear()
        server.cuts.clear()
        add_it(REPOSITORY)
        assert server.starts(place) == [cut]
        assert not set(asked_for(server)) & set(had)
        assert f"unet/{WEIGHTS['unet']}" in had

    def test_the_same_again_fetches_nothing(self, add_it: Add, server: HubServer) -> None:
        before = add_it(REPOSITORY).base
        server.asked.clear()
        assert add_it(REPOSITORY).base == before
        assert asked_for(server) == []

    def test_another_revision_takes_its_place(self, add_it: Add, server: HubServer, folder: Path) -> None:
        before = add_it(f"{REPOSITORY}@{server.commit(REPOSITORY)}").base
        changed = dict(server.repositories[REPOSITORY]) | {"vae/config.json": json.dumps(SIZES["vae"]).encode()}
        server.repositories[REPOSITORY] = changed
        with pytest.raises(BrokenBase, match="has no revision"):
            add_it(f"{REPOSITORY}@{before.sha256}")
        (folder / "mine.part").mkdir(exist_ok=True)
        (folder / "mine.part" / "left.safetensors").write_bytes(b"of another try")
        server.asked.clear()
        after = add_it(REPOSITORY).base
        assert asked_for(server) == ["vae/config.json"]
        assert (after.location, after.sha256 == before.sha256) == (before.location, False)
        assert [path.name for path in folder.iterdir()] == ["mine"]
        assert "left.safetensors" not in names_in(folder / "mine")

    @pytest.mark.parametrize("own", [False, True])
    def test_a_base_in_use_is_not_written_to_through_what_was_linked_to_it(
        self, add_it: Add, server: HubServer, folder: Path, tmp_path: Path, own: bool
    ) -> None:
        """What is the same is another name for the same bytes in the next try, which breaks off here."""
        before = add_it(REPOSITORY).base
        place = folder / "mine"
        server.repositories[REPOSITORY] = dict(server.repositories[REPOSITORY]) | {WEIGHTS_OF_VAE: b"changed"}
        server.altered[WEIGHTS_OF_VAE] = b"damaged"
        with pytest.raises(BrokenBase, match="arrived damaged"):
            add_it(REPOSITORY)
        name = "tokenizer/tokenizer_config.json"
        assert (folder / "mine.part" / name).samefile(place / name)
        other = paper_base(tmp_path / "other")
        (other / name).write_text('{"model_max_length": 7}')
        read: list[str] = []

        def look(_part: Path, _place: Path) -> None:
            read.append(base_sha256(place))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(adding, "put_in_place", look)
            add_it(paper_checkpoint(tmp_path / CHECKPOINT), configs=str(place if own else other))
        assert read == [before.sha256]

    def test_a_checkpoints_file_takes_its_own_repositorys_configurations(
        self, add_it: Add, server: HubServer, folder: Path, repository: Path
    ) -> None:
        added = add_it(f"{REPOSITORY}/v1-5-pruned.safetensors")
        weights = [name for name in names_in(folder / "mine") if name.endswith(".safetensors")]
        assert weights == ["v1-5-pruned.safetensors"]
        sha256 = file_sha256(repository / weights[0])
        assert [(one.commit, one.sha256) for one in added.origins] == [(server.commit(REPOSITORY), sha256)]

    def test_a_checkpoints_file_alone_in_its_repository_takes_the_published_ones(
        self, add_it: Add, server: HubServer, repository: Path
    ) -> None:
        server.repositories[PUBLISHED] = server.repositories[REPOSITORY]
        server.repositories["people/tuned"] = {
            "tuned.safetensors": (repository / "v1-5-pruned.safetensors").read_bytes()
        }
        with pytest.raises(
            BrokenBase, match=r"no checkpoint's folder; add one of its files: people/tuned/tuned.safetens"
        ):
            add_it("people/tuned")
        file, configs = add_it("people/tuned/tuned.safetensors").origins
        assert (file.source, configs.source) == ("people/tuned/tuned.safetensors", PUBLISHED)

    def test_an_autoencoder_and_an_embedding_are_fetched_too(
        self, add_it: Add, server: HubServer, folder: Path, tmp_path: Path
    ) -> None:
        vae = files_of(BUNDLED_PATH / "vae")
        save_file({"emb_params": np.zeros((2, 128), np.float32)}, tmp_path / "word.safetensors")
        server.repositories |= {
            "studio/vae": vae,
            "studio/whole": {f"vae/{name}": content for name, content in vae.items()},
            "studio/word": {"word.safetensors": (tmp_path / "word.safetensors").read_bytes(), "word.bin": b""},
        }
        for name, source in (("soft", "studio/vae"), ("soft2", "studio/whole/vae")):
            added = add_it(source, name=name, kind=BaseKind.VAE).base
            assert (added.location, added.sha256) == (str(folder / name), base_sha256(BUNDLED_PATH / "vae"))
        for source in ("studio/word", "studio/word/word.safetensors"):
            added = add_it(source, name="word", kind=BaseKind.EMBEDDING).base
            assert (added.location, added.text_width) == (str(folder / "word" / "word.safetensors"), 128)

    def test_what_is_of_another_kind_is_told_and_its_download_kept(
        self, add_it: Add, server: HubServer, folder: Path
    ) -> None:
        with pytest.raises(BrokenBase, match=r"expected a VAE, .* found a checkpoint in one file; add the file"):
            add_it(f"{REPOSITORY}/v1-5-pruned.safetensors", kind=BaseKind.VAE)
        server.asked.clear()
        add_it(f"{REPOSITORY}/v1-5-pruned.safetensors")
        assert "v1-5-pruned.safetensors" not in asked_for(server)
        with pytest.raises(BrokenBase, match=r"it holds no safetensors weights to take, only tokenizer_config.json"):
            add_it(f"{REPOSITORY}/tokenizer", kind=BaseKind.VAE)

    def test_a_damaged_file_is_refused_and_fetched_anew(self, add_it: Add, server: HubServer, folder: Path) -> None:
        server.altered["vae/diffusion_pytorch_model.safetensors"] = b"something else"
        with pytest.raises(BrokenBase, match=r"vae/diffusion_pytorch_model.safetensors arrived damaged"):
            add_it(REPOSITORY)
        assert not (folder / "mine").exists()
        server.altered.clear()
        assert add_it(REPOSITORY).base.location == str(folder / "mine")

    def test_no_space_is_told_with_what_is_needed(
        self, add_it: Add, monkeypatch: pytest.MonkeyPatch, server: HubServer
    ) -> None:
        free = shutil.disk_usage("/")._replace(free=100)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
        with pytest.raises(BrokenBase, match=r"no space for studio/base: [\d,]+ bytes are needed in .*, 100 are free"):
            add_it(REPOSITORY)

    def test_a_disk_that_fills_up_under_way_is_told_too(self, add_it: Add, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Hub, "_append", full)
        with pytest.raises(BrokenBase, match=r"no space for studio/base: .*, and run the same command again"):
            add_it(REPOSITORY)

    def test_two_at_once_do_not_fill_one_folder(self, add_it: Add, folder: Path) -> None:
        with (
            making.making(folder / "mine"),
            pytest.raises(BrokenBase, match=r"mine.part is being filled by another command; wait until"),
        ):
            add_it(REPOSITORY)
        assert add_it(REPOSITORY).base.name == "mine"

    def test_a_base_that_was_taken_away_for_another_is_put_back(
        self, add_it: Add, server: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = add_it(REPOSITORY).base
        rename = Path.rename

        def break_off(path: Path, target: Path) -> Path:
            if path.name == "mine.part":
                raise KeyboardInterrupt
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", break_off)
        with pytest.raises(KeyboardInterrupt):
            add_it(REPOSITORY)
        assert sorted(path.name for path in folder.iterdir()) == ["mine.old", "mine.part"]
        with making.making(folder / "mine"):
            assert base_sha256(folder / "mine") == before.sha256

    def test_what_got_its_place_while_another_waited_is_not_filled_again(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place, part = folder / "mine", folder / "mine.part"
        flock = making.fcntl.flock

        def late(lock: int, how: int) -> None:
            if not place.exists():
                making.put_in_place(part, place)
            flock(lock, how)

        monkeypatch.setattr(making.fcntl, "flock", late)
        with making.making(place) as made:
            assert (made, made.is_dir()) == (part, True)
            with pytest.raises(BrokenBase, match="is being filled by another"), making.making(place):
                pass

    @pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "x.part", "x.old", "-x", "a\nb"])
    def test_a_name_that_is_no_folders_is_refused(self, add_it: Add, server: HubServer, name: str) -> None:
        with pytest.raises(InvalidRequest, match="must do as a folder's name"):
            add_it(REPOSITORY, name=name)
        assert server.asked == []

    def test_the_bundled_bases_name_is_refused_before_anything_is_fetched(self, add_it: Add, server: HubServer) -> None:
        with pytest.raises(InvalidRequest, match="is the base that comes with Maquette"):
            add_it(REPOSITORY, name="maquette-tiny")
        assert server.asked == []

    def test_an_upscaler_needs_none(self, add_it: Add, server: HubServer) -> None:
        with pytest.raises(InvalidRequest, match="the one upscaler there is"):
            add_it(REPOSITORY, kind=BaseKind.UPSCALER)
        assert server.asked == []
