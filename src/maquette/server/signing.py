"""Addresses that carry their own permission: a path, an expiry, and an HMAC over both."""

import hashlib
import hmac
import secrets
from urllib.parse import urlencode

from msgspec import Struct

from maquette.core.errors import ErrorReason, MaquetteError
from maquette.core.files import write_atomic
from maquette.server.settings import Settings

KEPT_IN = "signing-secret"


class Purpose(Struct, frozen=True):
    """What an address is for, as errors call it, and their reasons when it was altered or came too late."""

    name: str
    invalid: ErrorReason
    expired: ErrorReason


UPLOAD = Purpose("upload", ErrorReason.UPLOAD_URL_INVALID, ErrorReason.UPLOAD_URL_EXPIRED)
IMAGE = Purpose("picture's", ErrorReason.IMAGE_URL_INVALID, ErrorReason.IMAGE_URL_EXPIRED)


class Signer:
    """Signs addresses and checks them."""

    def __init__(self, secret: str) -> None:
        self._key = secret.encode()

    def sign(self, method: str, path: str, expires: int) -> str:
        """The address: `path` with its expiry (Unix seconds) and signature as query."""
        return f"{path}?{urlencode({'expires': expires, 'signature': self._signature(method, path, str(expires))})}"

    def check(
        self, method: str, path: str, expires: str, signature: str, now: float, *, purpose: Purpose = UPLOAD
    ) -> None:
        """Let an address pass that was signed here and has not expired at `now` (Unix seconds).

        Raises:
            MaquetteError: the purpose's reason `invalid`, or `expired` for a genuine one that came too late.
        """
        genuine = self._signature(method, path, expires)
        if not hmac.compare_digest(genuine.encode(), signature.encode()):
            raise MaquetteError(purpose.invalid, f"the {purpose.name} address was altered; ask for a new one")
        if int(expires) <= now:
            raise MaquetteError(purpose.expired, f"the {purpose.name} address has expired; ask for a new one")

    def _signature(self, method: str, path: str, expires: str) -> str:
        return hmac.new(self._key, f"{method}\n{path}\n{expires}".encode(), hashlib.sha256).hexdigest()


def open_signer(settings: Settings) -> Signer:
    """The signer of this installation; its secret is the setting's, or one drawn at the first start and kept.

    Raises:
        OSError: the data folder can't be read or written.
    """
    if settings.signing_secret:
        return Signer(settings.signing_secret)
    path = settings.data_dir / KEPT_IN
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, secrets.token_hex(32).encode())
    return Signer(path.read_text())
