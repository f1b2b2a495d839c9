"""What clients write in the query of the list of models."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maquette.core.errors import InvalidRequest
from maquette.server.models.queries import FALSE, TRUE, read_flag, read_offset, write_offset


@given(offset=st.integers(0, 10**15), doubled=st.booleans())
def test_an_offset_reads_back_as_it_was_written(offset: int, doubled: bool) -> None:
    cursor = write_offset(offset)
    assert read_offset(f"c_{cursor}" if doubled else cursor) == offset


@given(text=st.text(max_size=8).filter(bool))
def test_other_cursors_are_refused(text: str) -> None:
    if not text.startswith("c_"):
        with pytest.raises(InvalidRequest, match=r"pagination.cursor: must be empty, or c_"):
            read_offset(text)


@pytest.mark.parametrize("cursor", ["c_", "c_c_c_1", "c_-1", "c_1.0", "c_\u0663", "c_99999999999999999", "10", " c_1"])
def test_cursors_that_are_nearly_right_are_refused(cursor: str) -> None:
    with pytest.raises(InvalidRequest):
        read_offset(cursor)


def test_booleans_are_read_as_go_reads_them() -> None:
    assert {read_flag(text, "x") for text in TRUE} == {True}
    assert {read_flag(text, "x") for text in FALSE} == {False}
    assert read_flag("", "x") is None
    assert len(TRUE) == len(FALSE) == 6


@pytest.mark.parametrize("text", ["yes", "tRUE", "2", "null", "None", " true"])
def test_other_booleans_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"filter.is_sdxl: must be one of 1, t, T, TRUE, true, True, 0, f"):
        read_flag(text, "filter.is_sdxl")
