"""From staged files to examples: what is told, what is kept, and what a later run need not do again."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from msgspec.structs import replace
from PIL import Image

from maquette.core.findings import Finding, FindingCode, Severity
from maquette.core.ids import sha256_hex
from maquette.core.lifecycle import Reason
from maquette.core.progress import Found
from maquette.core.rundir import RunDirectory, RunSpec
from maquette.core.specs import Picture
from maquette.families.base import OriginalSize
from maquette.pictures.crops import Box, Size
from maquette.pictures.faces import BrokenDetector
from maquette.pictures.preparation import PictureFacts, Preparer
from maquette.testing.face_model import red_squares
from maquette.testing.factories import training_spec
from maquette.testing.runs import read_messages
from maquette.trainer.attempt import Attempt
from maquette.trainer.data import Example
from maquette.trainer.failures import RunFailed
from maquette.trainer.preparing import FACTS, open_store, original_size_of, prepare, tell_cut_captions
from maquette.trainer.reporter import Reporter
from maquette.trainer.supervision import Supervision
from maquette.trainer.tensor_store import Entry

pytestmark = pytest.mark.torch

CPU = torch.device("cpu")


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    run.create()
    return run


@pytest.fixture
def reporter(directory: RunDirectory) -> Generator[Reporter]:
    with Reporter(directory.events) as reporter:
        yield reporter


def noise(seed: int) -> Image.Image:
    torch.manual_seed(seed)
    return Image.fromarray(torch.randint(0, 255, (128, 192, 3), dtype=torch.uint8).numpy())


def attempt(
    directory: RunDirectory, reporter: Reporter, *images: Image.Image | bytes, cache: str = "", **settings: Any
) -> Attempt:
    """An attempt on these pictures at 128 x 128."""
    pictures: list[Picture] = []
    for index, image in enumerate(images):
        path = directory.images / f"{index}.png"
        path.write_bytes(image) if isinstance(image, bytes) else image.save(path)
        pictures.append(Picture(path.name, sha256_hex(path.read_bytes())))
    spec = training_spec()
    training = replace(spec, pictures=tuple(pictures), settings=replace(spec.settings, **settings))
    run = RunSpec(task_id="t", fence=1, training=training, base_path="", cache_path=cache)
    return Attempt(directory, run, Supervision(directory), reporter)


def prepared(attempt: Attempt) -> list[Example]:
    return prepare(attempt, open_store(attempt, CPU), lambda: None)


def findings(attempt: Attempt) -> list[Finding]:
    return [message.finding for message in read_messages(attempt.directory) if isinstance(message, Found)]


def test_examples_are_pictures_with_their_words(directory: RunDirectory, reporter: Reporter) -> None:
    run = attempt(directory, reporter, noise(0), noise(1), caption_dropout=0.1, random_flip=True)
    one, other = prepared(run)
    assert one.picture().size == (128, 128)
    assert one.picture().tobytes() != other.picture().tobytes()
    assert one.wordings == (run.training.settings.instance_prompt,)
    assert (one.dropout, one.mirrored, one.kept_as.owner) == (0.1, True, run.training.pictures[0].sha256)
    assert findings(run) == []


def test_what_is_kept_is_neither_read_nor_decoded_again(
    directory: RunDirectory, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = attempt(directory, reporter, noise(0), noise(0))
    store = open_store(run, CPU)
    for example in prepared(run):
        store.write(example.kept_as, {"mean": torch.zeros(1)})
    made = prepared(run)[0].picture
    (directory.images / "0.png").write_bytes(b"no picture any more")
    monkeypatch.setattr(Preparer, "prepare", lambda *_: pytest.fail("it was decoded"))
    assert len(prepared(run)) == 2
    assert [found.code for found in findings(run)] == [FindingCode.NEAR_DUPLICATE] * 3
    assert callable(made)


def test_what_was_kept_and_has_gone_is_made_anew(directory: RunDirectory, reporter: Reporter) -> None:
    run = attempt(directory, reporter, noise(0))
    (first,) = prepared(run)
    open_store(run, CPU).write(first.kept_as, {"mean": torch.zeros(1)})
    (second,) = prepared(run)
    assert second.picture().tobytes() == first.picture().tobytes()


@pytest.mark.parametrize("notes", [{}, {FACTS: "{}"}, {FACTS: "words"}], ids=["none", "of another version", "no JSON"])
def test_facts_that_can_not_be_read_are_seen_anew_and_what_lies_beside_them_is_none(
    directory: RunDirectory, reporter: Reporter, notes: dict[str, str]
) -> None:
    run = attempt(directory, reporter, noise(0))
    store = open_store(run, CPU)
    (first,) = prepared(run)
    store.write(Entry(first.kept_as.owner, first.kept_as.name, notes), {"mean": torch.zeros(1)})
    (second,) = prepared(run)
    assert second.kept_as == first.kept_as
    assert second.original_size == first.original_size
    assert store.read(second.kept_as) is None


def facts_of(picture: tuple[int, int], crop: tuple[int, int, int, int], size: tuple[int, int]) -> PictureFacts:
    return PictureFacts(
        picture=Size(*picture), faces=(), crop=Box(*crop), size=Size(*size), sharpness=None, thumbnail=b""
    )


@pytest.mark.parametrize(
    ("facts", "original_size"),
    [
        (facts_of((1000, 500), (300, 0, 800, 500), (250, 250)), OriginalSize(1000, 500, left=150, right=100)),
        (facts_of((500, 1000), (0, 100, 500, 600), (1000, 1000)), OriginalSize(500, 1000, top=200)),
        (facts_of((512, 512), (0, 0, 512, 512), (512, 512)), OriginalSize(512, 512)),
        # Around a face, so a picture of its own.
        (facts_of((4000, 3000), (900, 700, 1200, 1000), (1024, 1024)), OriginalSize(300, 300)),
    ],
)
def test_a_frame_is_the_originals_size_and_what_was_cut_off_once_it_was_resized(
    facts: PictureFacts, original_size: OriginalSize
) -> None:
    assert original_size_of(facts) == original_size


def test_frames_come_from_the_preparation_that_is_asked_for_not_from_what_is_kept_of_another(
    directory: RunDirectory, reporter: Reporter
) -> None:
    run = attempt(directory, reporter, noise(0))
    preparation = replace(run.training.preparation, width=192)
    wide = Attempt(
        directory,
        replace(run.spec, training=replace(run.training, preparation=preparation)),
        run.supervision,
        reporter,
    )
    store = open_store(run, CPU)
    found: list[OriginalSize] = []
    for _ in range(2):
        for one in (run, wide):
            (example,) = prepared(one)
            store.write(example.kept_as, {"mean": torch.zeros(1)})
            found.append(example.original_size)
    cut = found[0].left + found[0].right
    assert (found[0].width, found[0].height, cut) == (192, 128, 64)
    assert found == [found[0], OriginalSize(192, 128)] * 2


def test_mirrored_pictures_are_kept_apart(directory: RunDirectory, reporter: Reporter) -> None:
    (one,) = prepared(attempt(directory, reporter, noise(0)))
    (other,) = prepared(attempt(directory, reporter, noise(0), random_flip=True))
    assert one.kept_as.owner == other.kept_as.owner
    assert one.kept_as.name != other.kept_as.name


def test_held_out_pictures_are_always_shown_and_called_alike(directory: RunDirectory, reporter: Reporter) -> None:
    run = attempt(
        directory, reporter, noise(0), noise(1), caption_dropout=0.5, random_flip=True, shuffle_tags=True, seed=3
    )
    training = run.training
    captioned = [replace(picture, caption="ohwx, a, b, c, d, e, f") for picture in training.pictures]
    pictures = (captioned[0], replace(captioned[1], held_out=True))
    held = Attempt(
        directory, replace(run.spec, training=replace(training, pictures=pictures)), run.supervision, reporter
    )
    learned, held_out = prepared(held)
    assert (learned.dropout, learned.mirrored, len(learned.wordings) > 1) == (0.5, True, True)
    assert (held_out.dropout, held_out.mirrored, held_out.wordings) == (0.0, False, ("ohwx, a, b, c, d, e, f",))


def test_faces_are_found_by_the_model_that_the_node_names(
    directory: RunDirectory, reporter: Reporter, tmp_path: Path
) -> None:
    (tmp_path / "yunet.onnx").write_bytes(red_squares())
    image = Image.new("RGB", (640, 448), "green")
    image.paste("red", (320, 128, 352, 160))
    run = attempt(directory, reporter, image)
    preparation = replace(run.training.preparation, face_crop_ratio=1.0)
    spec = replace(run.spec, training=replace(run.training, preparation=preparation))

    def facts(spec: RunSpec) -> PictureFacts:
        (example,) = prepared(Attempt(directory, spec, run.supervision, reporter))
        return msgspec.json.decode(example.kept_as.notes[FACTS], type=PictureFacts)

    assert facts(replace(spec, face_detector=str(tmp_path / "yunet.onnx"))).crop == (304, 112, 368, 176)
    assert facts(spec).faces == ()
    with pytest.raises(BrokenDetector, match="MAQUETTE_FACE_DETECTOR"):
        facts(replace(spec, face_detector=str(tmp_path / "nowhere.onnx")))


def test_a_tenants_runs_share_a_folder_and_without_one_each_has_its_own(
    directory: RunDirectory, reporter: Reporter, tmp_path: Path
) -> None:
    shared = attempt(directory, reporter, noise(0), cache=str(tmp_path / "shared"))
    open_store(shared, CPU).write(Entry("a", "b"), {"mean": torch.zeros(1)})
    assert len(list((tmp_path / "shared").rglob("*.safetensors"))) == 1
    open_store(attempt(directory, reporter, noise(0)), CPU).write(Entry("a", "b"), {"mean": torch.zeros(1)})
    assert len(list(directory.cache.rglob("*.safetensors"))) == 1


def test_another_base_or_device_sees_nothing_of_it(directory: RunDirectory, reporter: Reporter) -> None:
    run = attempt(directory, reporter, noise(0))
    open_store(run, CPU).write(Entry("a", "b"), {"mean": torch.zeros(1)})
    assert open_store(run, CPU).read(Entry("a", "b")) is not None
    assert open_store(run, torch.device("meta")).read(Entry("a", "b")) is None
    base = replace(run.training.base, sha256="1" * 64)
    other = Attempt(
        directory, replace(run.spec, training=replace(run.training, base=base)), run.supervision, run.reporter
    )
    assert open_store(other, CPU).read(Entry("a", "b")) is None


def test_every_unreadable_picture_is_told_and_the_first_named(directory: RunDirectory, reporter: Reporter) -> None:
    run = attempt(directory, reporter, noise(0), b"words", b"more words")
    with pytest.raises(RunFailed, match=r"^1.png: the picture can't be read") as failure:
        prepared(run)
    assert failure.value.reason is Reason.BAD_DATASET
    assert [(found.code, found.picture) for found in findings(run)] == [
        (FindingCode.UNREADABLE, "1.png"),
        (FindingCode.UNREADABLE, "2.png"),
    ]


def test_a_picture_that_was_never_staged_in_is_not_the_owners_fault(
    directory: RunDirectory, reporter: Reporter
) -> None:
    run = attempt(directory, reporter, noise(0))
    (directory.images / "0.png").unlink()
    with pytest.raises(FileNotFoundError):
        prepared(run)


@pytest.mark.parametrize(("family", "trains", "told"), [("flux1", True, 1), ("flux1", False, 0), ("sdxl", True, 0)])
def test_a_text_encoder_that_can_have_no_lora_is_told(
    directory: RunDirectory, reporter: Reporter, family: str, trains: bool, told: int
) -> None:
    run = attempt(directory, reporter, noise(0), train_text_encoder=trains)
    training = replace(run.training, base=replace(run.training.base, family=family))
    prepared(Attempt(directory, replace(run.spec, training=training), run.supervision, reporter))
    message = (
        "train_text_encoder: of the text encoders, text_encoder is trained; a LoRA of FLUX.1 can't touch text_encoder_2"
    )
    assert findings(run) == [Finding(FindingCode.TEXT_ENCODER_LEFT, Severity.INFO, message)] * told


def test_cut_captions_are_told(directory: RunDirectory, reporter: Reporter) -> None:
    run = attempt(directory, reporter, noise(0), noise(1))

    class ShortReader:
        def reads_whole_prompt(self, prompt: str) -> bool:
            return "long" not in prompt

    first, second = run.training.pictures
    captioned = (replace(first, caption="a long one"), replace(second, caption="a short one"))
    training = replace(run.training, pictures=captioned)
    told = Attempt(directory, replace(run.spec, training=training), run.supervision, reporter)
    tell_cut_captions(told, ShortReader())  # pyright: ignore[reportArgumentType]
    assert [(found.code, found.picture) for found in findings(told)] == [(FindingCode.CAPTION_CUT, "0.png")]
