"""Identifiers in the published forms."""

import hashlib
import re
import uuid

_TASK_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def new_task_id() -> str:
    """A training task's id: a lower-case UUID of 36 characters."""
    return str(uuid.uuid4())


def is_task_id(text: str) -> bool:
    """Whether this has the form of a training task's id."""
    return _TASK_ID.fullmatch(text) is not None


def new_asset_id() -> str:
    """An asset's id: 32 lower-case hex characters, also the base name of its upload URL."""
    return uuid.uuid4().hex


def new_id() -> str:
    """An id for rows that never appear on the published wire (tenants, keys, datasets, models)."""
    return uuid.uuid4().hex


def model_name(finished_at: int, sha256: str) -> str:
    """The published file name of a trained LoRA.

    Args:
        finished_at: Unix seconds of the moment training finished.
        sha256: hex digest of the file.
    """
    return f"model_{finished_at}_{sha256[:10].upper()}.safetensors"


def sha256_hex(data: bytes) -> str:
    """Hex SHA-256 of bytes that are in memory already."""
    return hashlib.sha256(data).hexdigest()
