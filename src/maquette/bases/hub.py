"""A model hub, asked for what a repository holds and for its files.

Two calls of the hub's published interface are all that is needed: a revision's list of files with their sizes and
hashes, and a file's bytes, of which a cut off download asks for the rest.
"""

import hashlib
import re
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import httpx
import msgspec
from msgspec import Struct

from maquette.core.basefolder import BrokenBase
from maquette.core.files import file_sha256

PUBLIC_HUB = "https://huggingface.co"
ENDPOINT = "HF_ENDPOINT"
TOKEN = "HF_TOKEN"  # noqa: S105 - the variable's name
"""Variables of the environment, as the hub's own tools read them."""
DEFAULT_REVISION = "main"
SILENCE = 30.0
"""Seconds without a byte after which a connection counts as broken."""
WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further try of a download that gets nowhere. One that has got on begins anew."""
BUSY = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})
UNFINISHED = "."
"""What the name of a file begins with whose bytes are not all there."""

_ID = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[^/@]+))?(?:/(?P<path>[^@]+))?")
Report = Callable[[int], None]
"""Told how many bytes of a file there are by now."""


class Unobtainable(BrokenBase):
    """The hub does not give what was asked for; the message says why, and the fix."""


class HubId(Struct, frozen=True):
    """A place on a hub: a repository, a revision of it, and a file or a folder in that."""

    repository: str
    revision: str = DEFAULT_REVISION
    path: str = ""

    def __str__(self) -> str:
        revision = "" if self.revision == DEFAULT_REVISION else f"@{self.revision}"
        return f"{self.repository}{revision}" + (f"/{self.path}" if self.path else "")


class HubFile(Struct, frozen=True):
    """A file of a repository.

    Attributes:
        path: from the repository's root.
        size: in bytes.
        blob: its hash as git has it.
        sha256: its hash where it is kept apart from git, as weights are.
    """

    path: str
    size: int
    blob: str
    sha256: str | None = None

    def is_at(self, path: Path) -> bool:
        """Whether a file of ours is this one; reads all of it."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        return file_sha256(path) == self.sha256 if self.sha256 else _git_blob(path) == self.blob

    def unfinished(self, path: Path) -> Path:
        """Where its bytes gather until `path` has them all; those of another file elsewhere."""
        return path.with_name(f"{UNFINISHED}{path.name}.{(self.sha256 or self.blob)[:16]}")


class Listing(Struct, frozen=True):
    """What a repository holds at a commit: files by their path from the root, or from the folder that was asked for."""

    repository: str
    commit: str
    files: Mapping[str, HubFile]


def parse_hub_id(text: str) -> HubId | None:
    """Read `org/name` or `org/name@revision`, with `/` and a path behind it or not; None where it is no such thing."""
    if (found := _ID.fullmatch(text)) is None or ".." in text or text.startswith((".", "/")):
        return None
    repository, revision, path = found["repository"], found["revision"], found["path"]
    if path is None and repository.endswith(".safetensors"):
        return None
    return HubId(repository, revision or DEFAULT_REVISION, (path or "").rstrip("/"))


class Hub:
    """A hub at an address.

    Args:
        environment: names the address (`HF_ENDPOINT`) and the token to show there (`HF_TOKEN`), where set. Proxies are
            those of the process.
        waits: seconds before each further try of a download that gets nowhere.

    Raises:
        Unobtainable: the token can't be one.
    """

    def __init__(self, environment: Mapping[str, str], waits: Sequence[float] = WAITS) -> None:
        self.address = (environment.get(ENDPOINT) or PUBLIC_HUB).rstrip("/")
        self._waits = waits
        token = _token(environment)
        self._http = httpx.Client(
            # Bytes as they are: their number says where to go on.
            headers={"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {token}"} if token else {}),
            timeout=SILENCE,
            follow_redirects=True,
        )

    def listing(self, place: HubId) -> Listing:
        """What a repository holds, or the folder in it that `place` names.

        Raises:
            Unobtainable: the hub can't be reached or refuses, or has no such repository or revision.
        """
        repository, revision = place.repository, quote(place.revision, safe="")
        try:
            answer = self._http.get(
                f"{self.address}/api/models/{repository}/revision/{revision}", params={"blobs": "true"}
            )
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error
        if not answer.is_success:
            raise self._refusal(answer, place)
        try:
            found = msgspec.json.decode(answer.content, type=_Revision)
        except msgspec.DecodeError as error:
            raise Unobtainable(
                f"{self.address} does not answer as a model hub does ({error}); check {ENDPOINT}"
            ) from error
        files = [_file(one) for one in found.siblings]
        if not (below := _below(place.path, files)):
            held = ", ".join(file.path for file in files if file.path.endswith(".safetensors"))
            raise Unobtainable(f"{repository} has no {place.path} at {found.sha}, but {held or 'no safetensors file'}")
        return Listing(repository, found.sha, below)

    def fetch(self, listing: Listing, file: HubFile, path: Path, report: Report) -> None:
        """Put a file of a listing at `path`, and go on where an earlier call was cut off.

        Raises:
            Unobtainable: the hub can't be reached or refuses, or sends something else than it lists. What has come of
                the right file is kept for the next call.
            OSError: it can't be written.
        """
        unfinished = file.unfinished(path)
        if not self._complete(listing, file, unfinished, report) or not file.is_at(unfinished):
            unfinished.unlink()
            raise Unobtainable(
                f"{listing.repository}: {file.path} arrived damaged: expected {file.size} bytes with the hash"
                f" {file.sha256 or file.blob}; it was thrown away, run the same command again to fetch it anew"
            )
        unfinished.rename(path)

    def close(self) -> None:
        """End its connections."""
        self._http.close()

    def _complete(self, listing: Listing, file: HubFile, path: Path, report: Report) -> bool:
        """Ask for bytes until there are as many as the file has; False where another number is on offer."""
        failures = 0
        path.touch()
        while (there := path.stat().st_size) < file.size:
            try:
                return self._append(listing, file, path, report)
            except httpx.TooManyRedirects as error:
                raise self._unreachable(error) from error
            except (httpx.RequestError, _Busy) as error:
                problem = error
            failures = 0 if path.stat().st_size > there else failures + 1
            if failures > len(self._waits):
                raise Unobtainable(
                    f"{self.address} broke off {file.path} of {listing.repository} at {path.stat().st_size} of"
                    f" {file.size} bytes ({problem}); run the same command again, it goes on from there"
                )
            if failures:
                time.sleep(self._waits[failures - 1])
        return True

    def _append(self, listing: Listing, file: HubFile, path: Path, report: Report) -> bool:
        """Write what is missing behind what is there; False where another number of bytes is on offer."""
        with path.open("ab") as out, self._bytes(listing, file, out.tell()) as answer:
            if answer.status_code != HTTPStatus.PARTIAL_CONTENT:
                out.seek(0)
                out.truncate()
            if out.tell() + int(answer.headers.get("Content-Length", file.size - out.tell())) != file.size:
                return False
            for chunk in answer.iter_raw():
                out.write(chunk)
                report(out.tell())
        return True

    @contextmanager
    def _bytes(self, listing: Listing, file: HubFile, start: int) -> Generator[httpx.Response]:
        address = f"{self.address}/{listing.repository}/resolve/{listing.commit}/{quote(file.path)}"
        headers = {"Range": f"bytes={start}-"} if start else {}
        with self._http.stream("GET", address, headers=headers) as answer:
            if answer.status_code in BUSY or answer.is_server_error:
                raise _Busy(f"it answers {answer.status_code}")
            if not answer.is_success:
                raise self._refusal(answer, HubId(listing.repository, listing.commit, file.path))
            yield answer

    def _unreachable(self, error: Exception) -> Unobtainable:
        return Unobtainable(
            f"{self.address} can't be reached ({error or type(error).__name__}); without a network, give --from a"
            f" folder or file that was fetched elsewhere, and with a mirror name it in {ENDPOINT}"
        )

    def _refusal(self, answer: httpx.Response, place: HubId) -> Unobtainable:
        """Why a hub refuses, in words. It says more than the status, where it says it."""
        match answer.headers.get("X-Error-Code", ""), answer.status_code:
            case "GatedRepo", _:
                problem = (
                    f"{place.repository} is open only to those who accept its terms: accept them on"
                    f" {self.address}/{place.repository}, and set {TOKEN} to a token of that account"
                )
            case "RevisionNotFound", _:
                problem = f"{place.repository} has no revision {place.revision!r} on {self.address}"
            case "EntryNotFound", _:
                problem = f"{place.repository} has no file {place.path!r} at {place.revision}"
            case _, HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN | HTTPStatus.NOT_FOUND:
                problem = (
                    f"{self.address} shows no repository {place.repository!r}: there is none, or it is private. Check"
                    f" its name, or the path if a place on this machine was meant; for a private one set {TOKEN}"
                )
            case _, status:
                problem = f"{self.address} answers {status} to what is asked of {place.repository}; try again later"
        return Unobtainable(problem)


def _token(environment: Mapping[str, str]) -> str:
    """The token to show, empty for none. One that HTTP can't send is not told, as the error of sending it would."""
    token = environment.get(TOKEN, "").strip()
    if not (token.isascii() and token.isprintable()):
        raise Unobtainable(f"{TOKEN} has characters in it that no token has; set it to the token alone, or unset it")
    return token


class _Busy(Exception):
    """The hub asks to be left alone for a while."""


class _Apart(Struct):
    sha256: str


class _Sibling(Struct, rename="camel"):
    rfilename: str
    blob_id: str
    size: int
    lfs: _Apart | None = None


class _Revision(Struct):
    sha: str
    siblings: list[_Sibling]


def _file(sibling: _Sibling) -> HubFile:
    """A file, whose path must not lead out of the folder that it is put into."""
    path = PurePosixPath(sibling.rfilename)
    if path.is_absolute() or ".." in path.parts:
        raise Unobtainable(f"the hub lists {sibling.rfilename!r}, which is no path in a repository")
    return HubFile(sibling.rfilename, sibling.size, sibling.blob_id, sibling.lfs.sha256 if sibling.lfs else None)


def _below(folder: str, files: Sequence[HubFile]) -> dict[str, HubFile]:
    """Those files of a folder, by their paths in it. A file alone is in its folder."""
    if any(file.path == folder for file in files):
        folder = folder.rpartition("/")[0]
    prefix = f"{folder}/" if folder else ""
    return {file.path.removeprefix(prefix): file for file in files if file.path.startswith(prefix)}


def _git_blob(path: Path) -> str:
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    digest.update(path.read_bytes())
    return digest.hexdigest()
