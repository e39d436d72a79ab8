"""SQL statements by name, read from sql/*.sql.

A file holds statements one after another. Each starts with a line `-- name: the_name`, then a line
that says what it is for, and takes named parameters (`%(org_id)s`). Nothing is ever concatenated. A
statement that serves several tables alike has `{table}` for their names; see with_tables.
"""

import re
from collections.abc import Mapping
from pathlib import Path

SQL_FOLDER = Path(__file__).resolve().parent.parent / "sql"

_NAME = re.compile(r"^-- name: ([a-z_0-9]+)$", re.MULTILINE)
_TABLE = re.compile(r"[a-z][a-z_0-9]{0,57}", re.ASCII)  # _pkey follows, and 63 bytes are the most


def load_statements(file_name: str) -> Mapping[str, str]:
    """Return the statements of sql/<file_name> by name. Raises ValueError on a name that stands twice."""
    parts = _NAME.split((SQL_FOLDER / file_name).read_text(encoding="utf-8"))
    names, texts = parts[1::2], parts[2::2]
    if len(set(names)) != len(names):
        raise ValueError(f"sql/{file_name} names a statement twice")
    return dict(zip(names, (text.strip() for text in texts), strict=True))


def with_tables(statement: str, **tables: str) -> str:
    """Return a statement for these tables, by the names it has for them. Raises ValueError on a bad name."""
    for placeholder, table in tables.items():
        if not _TABLE.fullmatch(table):
            raise ValueError(f"{table!r} is no name of a table")
        statement = statement.replace(f"{{{placeholder}}}", table)
    return statement
