"""From staged picture files to examples, and what there is to say about them."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec
import torch
from msgspec.structs import replace
from PIL import Image

from maquette.core.decoding import UnreadablePicture
from maquette.core.findings import Finding, FindingCode, finding
from maquette.core.lifecycle import Reason
from maquette.core.specs import Picture, TrainingSpec
from maquette.families.base import OriginalSize, Pipeline
from maquette.families.environment import library_versions
from maquette.families.precision import weight_dtype
from maquette.families.registry import load_spec
from maquette.pictures.faces import load_detector
from maquette.pictures.findings import find_out, unreadable
from maquette.pictures.preparation import PictureFacts, Prepared, Preparer
from maquette.pictures.restoring import load_restorer
from maquette.trainer.attempt import Attempt
from maquette.trainer.captions import wordings
from maquette.trainer.data import Example
from maquette.trainer.failures import RunFailed
from maquette.trainer.tensor_store import Entry, TensorStore

FACTS = "facts"
"""Note beside a picture's latents: its `PictureFacts`, so that a later run need not even decode it."""


def open_store(attempt: Attempt, device: torch.device) -> TensorStore:
    """What earlier runs of the tenant with this base have kept; where the executor names no folder, this run's own."""
    root = Path(attempt.spec.cache_path) if attempt.spec.cache_path else attempt.directory.cache
    context = (attempt.training.base.sha256, device.type, str(weight_dtype(device)), library_versions())
    return TensorStore(root, attempt.spec.cache_bytes, msgspec.json.encode(context).decode())


def prepare(attempt: Attempt, store: TensorStore, before_each: Callable[[], None]) -> list[Example]:
    """Look at every picture, tell what there is to say, and answer what is learned from.

    Pictures whose latents are kept are not decoded. Examples are in the pictures' order; those of pictures that are
    held out are always shown and called alike, so that losses on them compare.

    Args:
        before_each: called before each picture; may raise to end the run.

    Raises:
        RunFailed: some pictures can't be decoded; the message names the first, findings name all.
        FileNotFoundError: one was never staged in, which is not the owner's fault.
    """
    training, preparer = attempt.training, _preparer(attempt)
    facts: dict[str, PictureFacts] = {}
    examples: list[Example] = []
    broken: list[tuple[Picture, UnreadablePicture]] = []
    for picture in training.pictures:
        before_each()
        try:
            example, facts[picture.name] = _example(attempt, store, preparer, picture)
        except UnreadablePicture as error:
            broken.append((picture, error))
            continue
        examples.append(example)
    for found in [
        *(unreadable(picture.name, error) for picture, error in broken),
        *find_out(training, facts, restored=preparer.restorer is not None),
        *_of_text_encoders(training),
    ]:
        attempt.reporter.finding(found)
    if broken:
        picture, error = broken[0]
        raise RunFailed(Reason.BAD_DATASET, f"{picture.name}: {error}")
    return examples


def original_size_of(facts: PictureFacts) -> OriginalSize:
    """What a picture was before it became what is trained on.

    What was cut out of its middle, as around a face, counts as a picture of its own: it may be small and enlarged, and
    told of the large one a base would take its blur for what sharp pictures look like.
    """
    picture, crop, size = facts.picture, facts.crop, facts.size
    if crop.size.width < picture.width and crop.size.height < picture.height:
        return OriginalSize(*crop.size)
    across, down = size.width / crop.size.width, size.height / crop.size.height
    return OriginalSize(
        *picture,
        left=round(crop.left * across),
        top=round(crop.top * down),
        right=round((picture.width - crop.right) * across),
    )


def tell_cut_captions(attempt: Attempt, pipeline: Pipeline) -> None:
    """Say which captions the text encoder reads only the beginning of."""
    problem = "is longer than the text encoder reads; its end has no effect"
    for picture in attempt.training.pictures:
        if picture.caption and not pipeline.reads_whole_prompt(picture.caption):
            attempt.reporter.finding(finding(FindingCode.CAPTION_CUT, f"the caption {problem}", picture.name))
    if not pipeline.reads_whole_prompt(attempt.training.settings.instance_prompt):
        attempt.reporter.finding(finding(FindingCode.CAPTION_CUT, f"instance_prompt {problem}"))


def _of_text_encoders(training: TrainingSpec) -> Iterator[Finding]:
    family = load_spec(training.base.family)
    left = family.memory.frozen_encoders.components
    if training.settings.train_text_encoder and left:
        yield finding(
            FindingCode.TEXT_ENCODER_LEFT,
            f"train_text_encoder: of the text encoders, {', '.join(family.trained_encoders) or 'none'} is trained;"
            f" a LoRA of {family.title} can't touch {', '.join(left)}",
        )


def _preparer(attempt: Attempt) -> Preparer:
    preparation = attempt.training.preparation
    restorer = load_restorer(preparation.face_restore, attempt.spec.device) if preparation.face_restore else None
    return Preparer(preparation, load_detector(attempt.spec.face_detector), restorer)


def _example(
    attempt: Attempt, store: TensorStore, preparer: Preparer, picture: Picture
) -> tuple[Example, PictureFacts]:
    settings = attempt.training.settings
    if picture.held_out:
        settings = replace(settings, shuffle_tags=False, caption_dropout=0.0, random_flip=False)
    name = f"{preparer.identity} mirrored={settings.random_flip}"
    facts = _kept_facts(store, picture.sha256, name)
    if facts:
        make = partial(_prepared_anew, attempt, picture)
    else:
        prepared = _prepared(attempt, preparer, picture)
        facts, make = prepared.facts, partial(_same, prepared.image)
    example = Example(
        picture=make,
        wordings=wordings(picture, settings),
        original_size=original_size_of(facts),
        dropout=settings.caption_dropout,
        mirrored=settings.random_flip,
        kept_as=Entry(picture.sha256, name, {FACTS: msgspec.json.encode(facts).decode()}),
    )
    return example, facts


def _kept_facts(store: TensorStore, owner: str, name: str) -> PictureFacts | None:
    """What an earlier run saw of a picture; None where none has kept it, or in a form that this version can't read."""
    notes = store.notes(owner, name) or {}
    try:
        return msgspec.json.decode(notes.get(FACTS, ""), type=PictureFacts)
    except msgspec.DecodeError:
        return None


def _prepared(attempt: Attempt, preparer: Preparer, picture: Picture) -> Prepared:
    return preparer.prepare((attempt.directory.images / picture.name).read_bytes())


def _prepared_anew(attempt: Attempt, picture: Picture) -> Image.Image:
    """Of a picture whose latents have gone since they were looked for; who finds and restores faces has gone too."""
    return _prepared(attempt, _preparer(attempt), picture).image


def _same(image: Image.Image) -> Image.Image:
    return image
