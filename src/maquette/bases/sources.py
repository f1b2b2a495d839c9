"""Where models come from: folders and files of this machine, and repositories of a model hub.

What lies here as it is needed stays where it is. What comes from a hub, and what must be put together because a
checkpoint's file has no configurations, gets a folder of its own.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import msgspec
from msgspec import Struct

from maquette.bases.catalogue import BaseKind
from maquette.bases.checkpoint import Checkpoint, misfits, recognise
from maquette.bases.download import Download, Progress
from maquette.bases.hub import Hub, HubId, Listing, parse_hub_id
from maquette.bases.look import SAFETENSORS
from maquette.bases.making import bring, tidy
from maquette.bases.selection import Wanted, is_small, of_components, of_embedding, of_folder, of_pipeline, of_weights
from maquette.core.basefolder import MODEL_INDEX, WEIGHTS, BaseLayout, BrokenBase, base_family
from maquette.core.files import file_sha256, write_atomic

ORIGIN = ".origin.json"
"""In a made folder: where its files are from, as a list of `Origin`."""


class Origin(Struct, frozen=True, omit_defaults=True):
    """Where files of a made folder are from.

    Attributes:
        source: a path, or a place on a hub.
        commit: of the repository.
        sha256: of a checkpoint's file.
    """

    source: str
    commit: str | None = None
    sha256: str | None = None

    def __str__(self) -> str:
        return f"{self.source} at commit {self.commit}" if self.commit else self.source


class Source(Struct, frozen=True):
    """A path of this machine, or a place on a hub."""

    path: Path
    hub: HubId | None = None

    @property
    def is_file(self) -> bool:
        """Whether it is a file of weights."""
        return self.hub.path.endswith(SAFETENSORS) if self.hub else self.path.suffix == SAFETENSORS


def parse_source(text: str) -> Source:
    """Read what an operator names. What exists as a path is one, and so is what can be nothing else."""
    path = Path(text)
    return Source(path, None if path.exists() else parse_hub_id(text))


class Maker:
    """Fills a folder with a model.

    Args:
        folder: to fill. What an earlier try has left in it is used, or erased in the end.
        place: where it will lie, and one of the same name may lie now: what is the same need not be fetched again.
        layouts: of every family's bases.
        hub: asked for what is not on this machine.
    """

    def __init__(
        self, folder: Path, place: Path, layouts: Mapping[str, BaseLayout], hub: Hub, progress: Progress
    ) -> None:
        self._folder = folder
        self._place = place
        self._layouts = layouts
        self._hub = hub
        self._progress = progress
        self._names: set[str] = set()
        self._origins: list[Origin] = []

    def from_hub(self, place: HubId, kind: BaseKind) -> list[Origin]:
        """Make a model of what a repository has of it; answers where it is from.

        Raises:
            BrokenBase: the repository has nothing of this kind, or can't be had.
        """
        listing = self._hub.listing(place)
        if place.path.endswith(SAFETENSORS):
            self._fetch(listing, [_named(listing, place)])
        elif kind in (BaseKind.CHECKPOINT, BaseKind.REFINER):
            family = self._fetch_index(listing)
            self._fetch(listing, of_components(listing, self._layouts[family]))
        elif kind is BaseKind.EMBEDDING:
            self._fetch(listing, of_embedding(listing))
        else:
            self._fetch(listing, of_folder(listing))
        self._origins.append(Origin(str(place), listing.commit))
        return self._done()

    def from_file(
        self, source: Source, configs: Source | None, registered: Mapping[str, Sequence[Path]]
    ) -> list[Origin]:
        """Make a base of a checkpoint's file, with configurations, tokenizers, and weights that the file lacks.

        Args:
            configs: where these are from. None is the folder or repository of the file, if a base lies in it; else
                the registered base of its family that fits it; else the repository that the family's spec names.
            registered: folders of the registered bases, by family.

        Raises:
            BrokenBase: the file is no checkpoint, or what comes with it is of another family or can't be had.
        """
        listing = self._hub.listing(source.hub) if source.hub else None
        checkpoint = recognise(self._file(source, listing), self._layouts)
        if configs is None and listing and MODEL_INDEX in listing.files:
            self._around_from_hub(checkpoint, listing)
        else:
            configs = configs or _own(source) or self._usual(checkpoint, registered.get(checkpoint.family, ()))
            if configs.hub:
                listing = self._hub.listing(configs.hub)
                self._around_from_hub(checkpoint, listing)
                self._origins.append(Origin(str(configs.hub), listing.commit))
            else:
                self._around_from_folder(checkpoint, configs.path)
                self._origins.append(Origin(str(configs.path.resolve())))
        return self._done()

    def _file(self, source: Source, listing: Listing | None) -> Path:
        """Get the checkpoint's file; of this machine, only what is one."""
        if source.hub and listing:
            wanted = _named(listing, source.hub)
            self._fetch(listing, [wanted])
            self._origins.append(Origin(str(source.hub), listing.commit, wanted.file.sha256))
            return self._folder / wanted.name
        # Else what is none is copied and read first, and anew with every try.
        recognise(source.path, self._layouts)
        file = self._folder / source.path.name
        bring(source.path, file)
        self._names.add(file.name)
        self._origins.append(Origin(str(source.path.resolve()), sha256=file_sha256(file)))
        return file

    def _usual(self, checkpoint: Checkpoint, registered: Sequence[Path]) -> Source:
        """Where configurations are from if nobody says so."""
        layout = self._layouts[checkpoint.family]
        fitting = [root for root in registered if _fits(checkpoint, root, layout)]
        if fitting and len({_small_files(root, layout) for root in fitting}) == 1:
            return Source(fitting[0])
        if (published := checkpoint.layout.published) and (place := parse_hub_id(published)):
            return Source(Path(published), place)
        raise BrokenBase(
            f"{checkpoint.path.name} does not tell which configurations of {checkpoint.family} are its own; name them"
            " with --configs: a folder in diffusers layout, a registered base, or a repository"
        )

    def _around_from_hub(self, checkpoint: Checkpoint, listing: Listing) -> None:
        """Get a repository's configurations, and those weights that the file lacks."""
        _check_family(checkpoint, self._fetch_index(listing), listing.repository)
        self._fetch(listing, of_components(listing, self._layouts[checkpoint.family], checkpoint.components))

    def _around_from_folder(self, checkpoint: Checkpoint, root: Path) -> None:
        """Get a folder's configurations, and those weights that the file lacks."""
        _check_family(checkpoint, base_family(root, self._layouts), str(root))
        self._copy(root, MODEL_INDEX)
        for component, layout in self._layouts[checkpoint.family].components.items():
            names = [path.name for path in sorted((root / component).glob("*"))]
            for name in filter(is_small, names):
                self._copy(root, f"{component}/{name}")
            if layout.weights and component not in checkpoint.components:
                for usual, name in of_weights(names).items():
                    bring(root / component / name, self._folder / component / usual)
                    self._names.add(f"{component}/{usual}")

    def _copy(self, root: Path, name: str) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # An earlier try may have left another name there for the bytes of a base in use.
        path.unlink(missing_ok=True)
        shutil.copyfile(root / name, path)
        self._names.add(name)

    def _fetch_index(self, listing: Listing) -> str:
        """Get what says what a repository's components are; answers the family that it says so of."""
        self._fetch(listing, [of_pipeline(listing)])
        return base_family(self._folder, self._layouts)

    def _fetch(self, listing: Listing, wanted: Sequence[Wanted]) -> None:
        Download(self._hub, listing, self._folder, self._place, self._progress).fetch(wanted)
        self._names.update(one.name for one in wanted)

    def _done(self) -> list[Origin]:
        """Leave what has been made, and write down where it is from."""
        write_atomic(self._folder / ORIGIN, msgspec.json.format(msgspec.json.encode(self._origins), indent=2))
        tidy(self._folder, {*self._names, ORIGIN})
        return self._origins


def _named(listing: Listing, place: HubId) -> Wanted:
    """The one file that a place names."""
    name = PurePosixPath(place.path).name
    return Wanted(listing.files[name], name)


def _own(source: Source) -> Source | None:
    """The folder of a file of this machine, if a base lies in it."""
    folder = source.path.parent
    return Source(folder) if source.hub is None and (folder / MODEL_INDEX).exists() else None


def _check_family(checkpoint: Checkpoint, family: str, configs: str) -> None:
    if family != checkpoint.family:
        raise BrokenBase(f"{configs} has configurations of {family}, but {checkpoint.path} is of {checkpoint.family}")


def _fits(checkpoint: Checkpoint, root: Path, layout: BaseLayout) -> bool:
    """Whether a registered base fits, and has the weights that the file lacks; what became of it is its own matter."""
    lacking = [name for name, kept in layout.components.items() if kept.weights and name not in checkpoint.components]
    try:
        return all(any((root / name).glob(WEIGHTS)) for name in lacking) and not misfits(checkpoint, root)
    except BrokenBase:
        return False


def _small_files(root: Path, layout: BaseLayout) -> frozenset[tuple[str, bytes]]:
    """Configurations and tokenizers of a base, as they are compared with another's."""
    files: Iterable[Path] = (path for name in layout.components for path in (root / name).glob("*"))
    return frozenset((path.relative_to(root).as_posix(), path.read_bytes()) for path in files if is_small(path.name))
