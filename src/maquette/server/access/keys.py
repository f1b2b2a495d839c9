"""The form of an API key: `mq_`, a public part that finds the row, a secret part, and a checksum.

The checksum tells a mistyped key from a wrong one without asking anybody. Only a hash of the secret part is stored;
since the secret is 160 random bits, a plain SHA-256 of it can't be searched.
"""

import base64
import hashlib
import hmac
import re
import secrets
import zlib

from msgspec import Struct

PREFIX = "mq_"
LOOKUP_BYTES = 10
SECRET_BYTES = 20

_KEY = re.compile(rf"{PREFIX}(?P<lookup>[a-z2-7]{{16}})(?P<secret>[a-z2-7]{{32}})(?P<checksum>[0-9a-f]{{8}})")
_HEADER = re.compile(r"\s*(?:bearer)?\s*(?P<key>[^\s;]+)\s*;?\s*", re.IGNORECASE)


class ApiKey(Struct, frozen=True):
    """A key in its parts. Never log or store one."""

    lookup: str
    secret: str

    def __str__(self) -> str:
        return f"{PREFIX}{self.lookup}{self.secret}{_checksum(self.lookup, self.secret)}"

    def __repr__(self) -> str:
        return f"ApiKey({self.lookup})"

    @property
    def secret_hash(self) -> str:
        """What is stored of the secret part: its SHA-256 in hex."""
        return hashlib.sha256(self.secret.encode()).hexdigest()

    def matches(self, secret_hash: str) -> bool:
        """Whether this is the key of a stored hash; takes the same time either way."""
        return hmac.compare_digest(self.secret_hash, secret_hash)


def draw_key() -> ApiKey:
    """A new key nobody has."""
    return ApiKey(_random(LOOKUP_BYTES), _random(SECRET_BYTES))


def parse_key(text: str) -> ApiKey | None:
    """A key in its parts, or None where the text is none or its checksum tells of a typing mistake."""
    found = _KEY.fullmatch(text)
    if found is None or found["checksum"] != _checksum(found["lookup"], found["secret"]):
        return None
    return ApiKey(found["lookup"], found["secret"])


def parse_header(header: str) -> ApiKey | None:
    """The key in an Authorization header. Clients send it with `Bearer` or bare, with or without a space, and one
    published example ends in a semicolon.
    """
    found = _HEADER.fullmatch(header)
    return parse_key(found["key"]) if found else None


def _random(size: int) -> str:
    return base64.b32encode(secrets.token_bytes(size)).decode().lower()


def _checksum(lookup: str, secret: str) -> str:
    return f"{zlib.crc32(f'{lookup}{secret}'.encode()):08x}"
