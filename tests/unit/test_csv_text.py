"""CSV that Python writes: a reader gets back what was written, and a spreadsheet runs none of it."""

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.csv_text import CsvLines, spreadsheet_text
from tests.support.csv_cells import NOT_RUN, RUN

CELLS = st.lists(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('",\r\n')), min_size=1)


def written(*lines: list[str]) -> str:
    text = CsvLines()
    for line in lines:
        text.add(line)
    return text.take().decode()


@settings(max_examples=200, deadline=None)
@given(st.lists(CELLS, min_size=1))
def test_a_reader_gets_back_every_cell(lines: list[list[str]]) -> None:
    assert list(csv.reader(io.StringIO(written(*lines), newline=""))) == lines


@pytest.mark.parametrize("cell", ["a\rb", "a\r\nb", "a\nb", "\r", 'a"b', "a,b"])
def test_what_a_reader_would_split_is_quoted_and_only_that(cell: str) -> None:
    quoted = cell.replace('"', '""')
    assert written(["x", cell, "y"]) == f'x,"{quoted}",y\n'


def test_what_is_taken_is_gone_and_none_is_an_empty_cell() -> None:
    lines = CsvLines()
    assert lines.take() == b""
    lines.add(["\u00e9", None, 1])
    lines.add([""])
    assert lines.take() == '\u00e9,,1\n""\n'.encode()
    assert lines.take() == b""


@pytest.mark.parametrize("text", RUN)
def test_a_text_that_would_run_gets_an_apostrophe(text: str) -> None:
    assert spreadsheet_text(text) == f"'{text}"


@pytest.mark.parametrize("text", [*NOT_RUN, ""])
def test_any_other_text_stays_as_it_is(text: str) -> None:
    assert spreadsheet_text(text) == text
