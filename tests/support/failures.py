"""What a failed test shows beside its traceback: the logs of its processes, and of its database."""

from collections.abc import Iterator
from pathlib import Path

import pytest

_MAX_LINES = 20


def logs_of(item: pytest.Item, postgres_log: Path) -> Iterator[tuple[str, str]]:
    """Yield a title and the last lines of each log that belongs to a test."""
    fixtures: dict[str, object] = getattr(item, "funcargs", {})
    folder = fixtures.get("tmp_path")
    if isinstance(folder, Path):
        for log in sorted(folder.rglob("*.log")):
            yield f"the end of {log.name}", _end(log.read_text(errors="replace").splitlines())
    url = getattr(fixtures.get("database"), "owner_url", None)
    if url and postgres_log.exists():
        name = f" {url.rpartition('/')[2]} "
        lines = [line for line in postgres_log.read_text(errors="replace").splitlines() if name in line]
        if lines:
            yield "what PostgreSQL logged about the test's database", _end(lines)


def _end(lines: list[str]) -> str:
    return "\n".join(lines[-_MAX_LINES:])
