"""The sandbox: a server on which clients are tried out. It has one base, and all is small and soon done.

Nothing here does anything where `MAQUETTE_SANDBOX` is off.
"""

from collections.abc import Collection, Mapping

from msgspec.structs import replace

from maquette.bases.catalogue import BUNDLED_BASE, KNOWN_BASES, spellings
from maquette.core.errors import InvalidRequest
from maquette.core.image_specs import ImageSpec
from maquette.core.rehearsal import Breakdown, asked_for
from maquette.core.specs import TrainingSpec
from maquette.server.settings import Settings

PUBLISHED = frozenset(spelling for base in KNOWN_BASES for spelling in spellings(base.name))
"""Every way to write the name of a published base."""


def base_name(settings: Settings, name: str) -> str:
    """The base that a name means: in a sandbox every published one is the bundled base, also where it is registered."""
    return BUNDLED_BASE.name if settings.sandbox and name in PUBLISHED else name


def small_training(settings: Settings, spec: TrainingSpec) -> TrainingSpec:
    """What is trained in a sandbox where `spec` was asked for."""
    if not settings.sandbox:
        return spec
    width, height = (min(side, settings.sandbox_side) for side in (spec.preparation.width, spec.preparation.height))
    steps = min(spec.settings.max_train_steps, settings.sandbox_steps)
    warmup = min(spec.settings.lr_warmup_steps, steps // 2)
    return replace(
        spec,
        preparation=replace(spec.preparation, width=width, height=height),
        settings=replace(spec.settings, max_train_steps=steps, lr_warmup_steps=warmup),
        sample=replace(spec.sample, width=width, height=height),
        checkpoint_samples=tuple(replace(sample, width=width, height=height) for sample in spec.checkpoint_samples),
    )


def small_picture(settings: Settings, model_name: str, asked: ImageSpec) -> ImageSpec:
    """What is drawn in a sandbox where `asked` was asked for, of the base that a client calls `model_name`."""
    if not settings.sandbox:
        return asked
    side = settings.sandbox_side
    second = asked.hires_fix
    drawn = replace(
        asked,
        width=min(asked.width, side),
        height=min(asked.height, side),
        steps=min(asked.steps, settings.sandbox_steps),
        hires_fix=second and replace(second, width=min(second.width, side), height=min(second.height, side)),
    )
    return replace(drawn, departures=_of_picture(settings, model_name, asked, drawn))


def _of_picture(settings: Settings, model_name: str, asked: ImageSpec, drawn: ImageSpec) -> tuple[str, ...]:
    renamed = base_name(settings, model_name) != model_name
    pairs = {
        "model_name": (model_name, drawn.base.name if renamed else model_name),
        "width": (asked.width, drawn.width),
        "height": (asked.height, drawn.height),
        "steps": (asked.steps, drawn.steps),
    }
    if asked.hires_fix and drawn.hires_fix:
        pairs["hires_fix.target_width"] = (asked.hires_fix.width, drawn.hires_fix.width)
        pairs["hires_fix.target_height"] = (asked.hires_fix.height, drawn.hires_fix.height)
    return _in_words(pairs)


def departures(settings: Settings, base_model: str, asked: TrainingSpec, trained: TrainingSpec) -> tuple[str, ...]:
    """In words for its owner where a training differs from what was asked for; `base_model` is as it was asked for."""
    if not settings.sandbox:
        return ()
    pairs = {
        "base_model": (base_model, trained.base.name),
        "width": (asked.preparation.width, trained.preparation.width),
        "height": (asked.preparation.height, trained.preparation.height),
        "max_train_steps": (asked.settings.max_train_steps, trained.settings.max_train_steps),
        "lr_warmup_steps": (asked.settings.lr_warmup_steps, trained.settings.lr_warmup_steps),
    }
    return _in_words(pairs)


def _in_words(pairs: Mapping[str, tuple[object, object]]) -> tuple[str, ...]:
    """What is said of fields, given for each what was asked for and what is used."""
    return tuple(
        f"sandbox: {field} is {used} here, not {wish}" for field, (wish, used) in pairs.items() if used != wish
    )


def breakdown(settings: Settings, words: str, possible: Collection[Breakdown], *, field: str) -> Breakdown | None:
    """What a training's name or a picture's prompt, the request's `field`, asks a sandbox for; None for nothing.

    Raises:
        InvalidRequest: nothing breaks down so, or not here.
    """
    asked = asked_for(words) if settings.sandbox else None
    if asked is None:
        return None
    if asked not in possible:
        known = ", ".join(sorted(possible))
        raise InvalidRequest(field, f"asks this sandbox for {asked!r}; what can break down here is {known}")
    return Breakdown(asked)
