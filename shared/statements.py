"""SQL statements by name, read from sql/*.sql.

A file holds statements one after another. Each starts with a line `-- name: the_name`, then a line
that says what it is for, and takes named parameters (`%(org_id)s`). Nothing is ever concatenated. A
statement that serves several tables alike has `{table}` for their names; see with_tables. `{number}` is the
type that integers are added up in; see in_type.

What several statements of a file have in common stands in it once, before them, under a line
`-- relation: the_name`: an item of their WITH lists, or another part of them, in which `{the_name}` stands
for it. A relation may hold relations that stand before it. What not every reader needs stands under a line
`-- part: the_name`, up to the next such line or to `-- end of part`, and can be left out.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

SQL_FOLDER = Path(__file__).resolve().parent.parent / "sql"

_HEAD = re.compile(r"^-- (name|relation): ([a-z_0-9]+)$", re.MULTILINE)
_PART = re.compile(
    r"^ *-- part: ([a-z_0-9]+)\n(.*?)(?=^ *-- (?:part: |end of part$))", re.MULTILINE | re.DOTALL
)
_COMMENT = re.compile(r"^ *--.*\n", re.MULTILINE)
_TABLE = re.compile(r"[a-z][a-z_0-9]{0,57}", re.ASCII)  # _pkey follows, and 63 bytes are the most


def load_statements(file_name: str, *, without: Collection[str] = (), **instead: str) -> Mapping[str, str]:
    """Return the statements of sql/<file_name> by name. Raises ValueError on a name that stands twice.

    without: parts to leave out; what PostgreSQL can see that it does not need, it plans all the same.
    instead: relations, each by the name of the one whose place it takes.
    """
    text = (SQL_FOLDER / file_name).read_text(encoding="utf-8")
    parts = _HEAD.split(_PART.sub(lambda part: "" if part[1] in without else part[2], text))
    found: dict[str, dict[str, str]] = {"name": {}, "relation": {}}
    for kind, name, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        if name in found["name"] or name in found["relation"]:
            raise ValueError(f"sql/{file_name} names a statement twice: {name}")
        whole = text
        for relation in found["relation"]:
            body = found["relation"].get(instead.get(relation, ""), found["relation"][relation])
            whole = whole.replace(f"{{{relation}}}", body)
        found[kind][name] = (_COMMENT.sub("", whole) if kind == "relation" else whole).strip()
    return found["name"]


def in_type(statements: Mapping[str, str], number: Literal["bigint", "numeric"]) -> Mapping[str, str]:
    """Return statements that add up integers in a type; bigint may raise NumberTooLarge."""
    return {name: text.replace("{number}", number) for name, text in statements.items()}


def bare(statements: Mapping[str, str]) -> Mapping[str, str]:
    """Return statements of one line without their comments, for those that are sent many times a second."""
    return {name: text.rpartition("\n")[2] for name, text in statements.items()}


def with_tables(statement: str, **tables: str) -> str:
    """Return a statement for these tables, by the names it has for them. Raises ValueError on a bad name."""
    for placeholder, table in tables.items():
        if not _TABLE.fullmatch(table):
            raise ValueError(f"{table!r} is no name of a table")
        statement = statement.replace(f"{{{placeholder}}}", table)
    return statement
