"""SQL by name: what a file of statements gives, and what it may not hold."""

import re
from pathlib import Path

import pytest

from shared import statements
from shared.statements import SQL_FOLDER, load_statements

TWO = """-- Words before the first name belong to nobody.
-- name: first
-- Says one.
SELECT %(one)s;

-- name: second_2
-- Says two. A comment may mention -- name: something without naming it.
SELECT 2;
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(statements, "SQL_FOLDER", tmp_path)
    return tmp_path


def test_statements_come_by_name_with_their_comments(folder: Path) -> None:
    (folder / "some.sql").write_text(TWO)
    assert load_statements("some.sql") == {
        "first": "-- Says one.\nSELECT %(one)s;",
        "second_2": "-- Says two. A comment may mention -- name: something without naming it.\nSELECT 2;",
    }


def test_a_name_that_stands_twice_is_refused(folder: Path) -> None:
    (folder / "some.sql").write_text(TWO + "\n-- name: first\n-- Again.\nSELECT 3;\n")
    with pytest.raises(ValueError, match=r"some\.sql names a statement twice"):
        load_statements("some.sql")


def test_a_relation_stands_once_and_is_put_where_it_is_named(folder: Path) -> None:
    (folder / "some.sql").write_text("""-- relation: one
-- One row.
one AS (SELECT 1 AS n)

-- relation: two
two AS (SELECT n + 1 AS n FROM one)

-- name: sum
-- Adds up.
WITH {one}, {two} SELECT one.n + two.n FROM one, two, {table};
""")
    assert load_statements("some.sql") == {
        "sum": "-- Adds up.\nWITH one AS (SELECT 1 AS n), two AS (SELECT n + 1 AS n FROM one)"
        " SELECT one.n + two.n FROM one, two, {table};"
    }


def test_a_relation_takes_the_place_of_another(folder: Path) -> None:
    (folder / "some.sql").write_text("""-- relation: one
one AS (SELECT 1 AS n)

-- relation: other
one AS (SELECT 2 AS n)

-- name: n
-- Tells it.
WITH {one} SELECT n FROM one;
""")
    head, tail = "-- Tells it.\nWITH one AS (SELECT", "AS n) SELECT n FROM one;"
    assert load_statements("some.sql") == {"n": f"{head} 1 {tail}"}
    assert load_statements("some.sql", one="other") == {"n": f"{head} 2 {tail}"}


def test_a_part_can_be_left_out(folder: Path) -> None:
    (folder / "some.sql").write_text("""-- relation: numbers
numbers AS (
    SELECT 1
    -- part: with_two
    UNION ALL
    SELECT 2
    -- part: with_three
    UNION ALL
    SELECT 3
    -- end of part
)

-- name: sum
-- Adds up.
WITH {numbers} SELECT sum(n) FROM numbers AS numbers (n);
""")

    def numbers(*without: str) -> list[str]:
        return re.findall(r"SELECT (\d)", load_statements("some.sql", without=without)["sum"])

    assert numbers() == ["1", "2", "3"]
    assert numbers("with_two") == ["1", "3"]
    assert numbers("with_two", "with_three") == ["1"]


def test_a_file_that_is_missing_is_an_error(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_statements("nothing.sql")


@pytest.mark.parametrize("name", sorted(path.name for path in SQL_FOLDER.glob("*.sql")))
def test_every_statement_of_the_house_is_one_statement(name: str) -> None:
    for statement, text in load_statements(name).items():
        code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--"))
        assert text.endswith(";"), statement
        if "$$" not in code:
            assert code.count(";") == 1, statement
