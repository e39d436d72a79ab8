"""The layout of the code: who may import whom, where drivers live, how SQL is kept.

Written here and not for import-linter: its contracts would hold the first two rules, in a second place and
with one more dependency, but not which single file may import a driver, nor the rules of SQL. Here all stand
together and take a tenth of a second.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.statements import SQL_FOLDER, load_statements

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("gateway", "ingestor", "rollup_worker", "export_worker")
BORDERS = {
    "psycopg2": {
        f"shared/postgres/{name}.py" for name in ("connection", "database", "rows", "url", "watchdog")
    },
    "pika": {f"shared/rabbitmq/{name}.py" for name in ("connection", "properties", "session", "url")},
    "redis": {"gateway/resources/freshness_cache.py"},
    "minio": {"shared/s3.py"},
}


def imports(path: Path) -> Iterator[str]:
    """Yield the top-level package of every import in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_imports_no_other_service(service: str) -> None:
    others = set(SERVICES) - {service}
    files = list((ROOT / service).rglob("*.py"))
    assert files
    assert {str(path): found for path in files if (found := others & set(imports(path)))} == {}


def test_shared_imports_no_service() -> None:
    files = list((ROOT / "shared").rglob("*.py"))
    assert {str(path): found for path in files if (found := set(SERVICES) & set(imports(path)))} == {}


@pytest.mark.parametrize("driver", sorted(BORDERS))
def test_a_driver_is_imported_only_at_its_border(driver: str) -> None:
    files = [path for folder in ("shared", *SERVICES) for path in (ROOT / folder).rglob("*.py")]
    users = {str(path.relative_to(ROOT)) for path in files if driver in set(imports(path))}
    assert users == BORDERS[driver]


def test_private_parts_of_a_library_are_used_where_that_is_written_down_alone() -> None:
    """Each has an exact upper bound in pyproject.toml, and a test that fails when the part changes."""
    users = set()
    for path in (path for folder in ("shared", *SERVICES) for path in (ROOT / folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if (
                isinstance(node, ast.Attribute)
                and re.match(r"_(?!_|replace$)", node.attr)  # a named tuple's _replace is public
                and ast.unparse(node.value) not in {"self", "cls"}
                and f"self.{node.attr}" not in text  # another object of the same class
            ):
                users.add(str(path.relative_to(ROOT)))
    assert users == {"gateway/http/worker.py", "shared/rabbitmq/connection.py", "shared/s3.py"}


@pytest.mark.parametrize("name", sorted(path.name for path in SQL_FOLDER.glob("*.sql")))
def test_every_statement_says_what_it_is_for(name: str) -> None:
    statements = load_statements(name)
    assert statements
    for statement, text in statements.items():
        assert text.startswith("-- "), f"{statement} in sql/{name} has no purpose line"
