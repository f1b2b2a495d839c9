"""Pools by name."""

import pytest

from maquette.core.registry import UnknownName
from maquette.serving.local import LocalPool
from maquette.serving.registry import pool_factory


def test_local_pool_has_its_name_and_others_are_refused() -> None:
    assert pool_factory("local") is LocalPool
    with pytest.raises(UnknownName, match="local"):
        pool_factory("remote")
