"""Fetching files of a repository into a folder, in the order of their list and with one account of all bytes."""

import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from maquette.bases.hub import Hub, Listing, Unobtainable
from maquette.bases.making import bring, free_space, no_space
from maquette.bases.selection import Wanted

Progress: TypeAlias = Callable[[str, int, int], None]
"""Told which file is being fetched, how many bytes there are by now of all of them, and how many there will be."""


class Download:
    """Files of one repository on their way into a folder.

    Args:
        earlier: a folder that may hold the same files; those need not be fetched.
    """

    def __init__(self, hub: Hub, listing: Listing, folder: Path, earlier: Path, progress: Progress) -> None:
        self.listing = listing
        self._hub = hub
        self._folder = folder
        self._earlier = earlier
        self._progress = progress

    def fetch(self, wanted: Sequence[Wanted]) -> None:
        """Fetch files; those that are there already are read, and kept if they are the right ones.

        Raises:
            Unobtainable: the hub can't be reached or refuses, sends damaged files, or there is no space for them.
            OSError: they can't be written.
        """
        lacking = [one for one in wanted if not self._is_there(one)]
        total = sum(one.file.size for one in lacking)
        self._check_space(total - sum(self._begun(one) for one in lacking))
        done = 0
        for one in lacking:
            before, name = done, one.file.path
            self._progress(name, before + self._begun(one), total)
            try:
                self._hub.fetch(
                    self.listing,
                    one.file,
                    self._folder / one.name,
                    lambda there, name=name, before=before: self._progress(name, before + there, total),
                )
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                raise self._no_space(one.file.size) from error
            done += one.file.size
            self._progress(name, done, total)

    def _is_there(self, one: Wanted) -> bool:
        path = self._folder / one.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if one.file.is_at(path):
            return True
        if one.file.is_at(self._earlier / one.name):
            bring(self._earlier / one.name, path)
            return True
        path.unlink(missing_ok=True)
        return False

    def _begun(self, one: Wanted) -> int:
        unfinished = one.file.unfinished(self._folder / one.name)
        return unfinished.stat().st_size if unfinished.exists() else 0

    def _check_space(self, lacking: int) -> None:
        if lacking > free_space(self._folder):
            raise self._no_space(lacking)

    def _no_space(self, lacking: int) -> Unobtainable:
        return Unobtainable(no_space(self._folder, lacking, self.listing.repository))
