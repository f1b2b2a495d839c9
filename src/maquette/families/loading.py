"""Loading a base's folder with diffusers."""

import re
import traceback
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import torch
import transformers
from diffusers.loaders.single_file_utils import SingleFileComponentError

from maquette.core.basefolder import MODEL_INDEX, WEIGHTS, BrokenBase, read_config, single_file
from maquette.families.precision import weight_dtype

# Bars are for terminals; our output is a log.
diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()

AUTOENCODER = "vae"
CONFIG = "config.json"
"""Of a component with weights."""
LIBRARIES: Mapping[str, Any] = {"diffusers": diffusers, "transformers": transformers}
"""Where the classes of components are, as `model_index.json` calls it."""
MISFIT = re.compile(
    r"because (?P<name>\S+) expected shape torch\.Size\((?P<expected>.*?)\), but got torch\.Size\((?P<found>.*?)\)"
)
"""How diffusers tells of a weight of another shape."""


def load_parts(library: Any, base: Path, device: torch.device, absent: Mapping[str, Any]) -> Any:
    """Load a base's folder into host memory as diffusers' pipeline, in the device's precision, whatever its files have.

    Its weights are in the components' folders, or in one file beside these, as checkpoints were published before there
    were folders; then the components' folders hold configurations and tokenizers alone, and weights where the file has
    none of theirs.

    Args:
        library: diffusers' pipeline class.
        absent: components that it knows and we do without, and what it is to make of that.

    Raises:
        BrokenBase: the folder lacks a part, or a part can't be used.
    """
    try:
        parts = _loaded(library, base, device, absent)
        for name, part in parts.components.items():
            if isinstance(part, transformers.PreTrainedTokenizerBase):
                _check_vocabulary(part, base / name)
        return parts
    except SingleFileComponentError as error:
        lacking = _lacking(error, base, _models(base, absent))
        raise BrokenBase(f"the base in {base} can't be loaded: {lacking}") from error
    except NotImplementedError as error:
        raise BrokenBase(f"the base in {base} can't be loaded: {_unfilled(error)}") from error
    except (BrokenBase, OSError, ValueError, LookupError, TypeError, RuntimeError) as error:
        raise BrokenBase(f"the base in {base} can't be loaded: {misfit(error) or error}") from error


class _Model(NamedTuple):
    """A component that has weights: its name, and the class and library that `model_index.json` names."""

    name: str
    library: str
    kind: str

    @property
    def loader(self) -> Any:
        """Its class."""
        return getattr(LIBRARIES[self.library], self.kind)


def _loaded(library: Any, base: Path, device: torch.device, absent: Mapping[str, Any]) -> Any:
    models = _models(base, absent)
    file = single_file(base, [model.name for model in models])
    # The library would not tell what folders lack, would expect the weights of all in a file, and read the autoencoder
    # in the others' numbers.
    given = dict(absent) | {
        model.name: _given(model, base, file, device)
        for model in models
        if model.name == AUTOENCODER or _has_weights(base, model.name)
    }
    if file is None:
        return library.from_pretrained(
            str(base), dtype=weight_dtype(device), local_files_only=True, use_safetensors=True, **given
        )
    # In float32 first, FLUX.1's transformer would take 48 GB. Told nothing that is what it reads in; told so, it warns.
    dtype = None if weight_dtype(device) is torch.float32 else weight_dtype(device)
    parts = library.from_single_file(str(file), config=str(base), dtype=dtype, local_files_only=True, **given)
    for model in models:
        component = parts.components[model.name]
        if model.library == "transformers":
            # Out of a file the library leaves some as they train, and what two layers share with one of them alone.
            component.eval().tie_weights()
        _check_whole(file, model, _empty(component))
    return parts


def _given(model: _Model, base: Path, file: Path | None, device: torch.device) -> Any:
    """A component out of its own folder; the autoencoder out of the file, where its folder has no weights."""
    folder = base / model.name
    if file is not None and not _has_weights(base, model.name):
        return model.loader.from_single_file(str(file), config=str(base), subfolder=model.name, local_files_only=True)
    component, told = model.loader.from_pretrained(
        folder,
        dtype=torch.float32 if model.name == AUTOENCODER else weight_dtype(device),
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
        # Which ones these are, transformers tells only where it may go on.
        **({"ignore_mismatched_sizes": True} if model.library == "transformers" else {}),
    )
    for name, found, expected in told["mismatched_keys"]:
        raise BrokenBase(f"expected {name} of {model.kind} {list(expected)}, found {list(found)}")
    _check_whole(folder, model, told["missing_keys"], told["unexpected_keys"])
    return component


def _check_whole(path: Path, model: _Model, lacking: Collection[str], foreign: Collection[str] = ()) -> None:
    """The libraries make up what files lack, as values to train from or as none at all, and only warn.

    What a file holds beside that is no fault: the published ones have much in them. It tells what else a file may be.
    """
    if lacking:
        instead = f"; it holds {len(foreign)} others: {_first(foreign)}" if foreign else ""
        raise BrokenBase(f"{path} lacks {len(lacking)} weights of the {model.name}: {_first(lacking)}{instead}")


def _check_vocabulary(tokenizer: transformers.PreTrainedTokenizerBase, folder: Path) -> None:
    """Without its words a tokenizer is loaded all the same, and then reads every word as one and the same."""
    names = dict(tokenizer.vocab_files_names)
    in_one = names.pop("tokenizer_file", None)
    choices = [files for files in ([in_one] if in_one else [], list(names.values())) if files]
    if choices and not any(all((folder / name).exists() for name in files) for files in choices):
        raise BrokenBase(f"{folder} lacks {', or '.join(' and '.join(files) for files in choices)}")


def _unfilled(error: NotImplementedError) -> str:
    """Which weights are lacking. The library leaves empty what it can't fill, and then fails to move that, without a
    word of what it is.
    """
    if (model := _in_hands(error)) is None:
        return str(error)
    lacking = _empty(model)
    return f"the file beside its folders lacks {len(lacking)} weights of {type(model).__name__}: {_first(lacking)}"


def misfit(error: Exception) -> str | None:
    """Which weight is of another shape, if that is what diffusers has said; it goes on with what to do in Python."""
    found, model = MISFIT.search(str(error)), _in_hands(error)
    return found and f"expected {found['name']} of {type(model).__name__} {found['expected']}, found {found['found']}"


def _in_hands(error: Exception) -> torch.nn.Module | None:
    """The model that a library had in hands when it failed: its errors are not told which one that was."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return next((one for frame in frames if isinstance(one := frame.f_locals.get("model"), torch.nn.Module)), None)


def _empty(model: torch.nn.Module) -> list[str]:
    return [name for name, weight in model.named_parameters() if weight.is_meta]


def _first(names: Collection[str]) -> str:
    return ", ".join(sorted(names)[:3])


def _lacking(error: SingleFileComponentError, base: Path, models: Sequence[_Model]) -> str:
    """Whose weights are nowhere. The library names a class, and then says what to do about it in Python."""
    said = str(error)
    classes = set(re.findall(r"\w+", said))
    names = [model.name for model in models if model.kind in classes and not _has_weights(base, model.name)]
    if not names:
        return said
    return f"the file beside its folders has no weights of the {' or the '.join(names)}, and {base / names[0]} has none"


def _has_weights(base: Path, component: str) -> bool:
    return any((base / component).glob(WEIGHTS))


def _models(base: Path, absent: Mapping[str, Any]) -> list[_Model]:
    """Those that the base has; a component of another library is the pipeline's own affair."""
    index = read_config(base / MODEL_INDEX)
    declared = [(name, pair) for name, pair in index.items() if isinstance(pair, list) and name not in absent]
    known = [_Model(name, *pair) for name, pair in declared if pair[0] in LIBRARIES]
    return [model for model in known if (base / model.name / CONFIG).exists()]
