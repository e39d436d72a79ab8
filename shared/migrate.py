"""Brings the database schema up to date: `python -m shared.migrate [distribute]` (see `--help`).

Applies sql/migrations/NNNN_name.sql in order, each in a transaction of its own under a
transaction-level advisory lock, so it is safe to run twice, at once, and beside running processes.
DATABASE_URL is the schema owner's. A migration that has been applied must never be edited.
"""

import argparse
import hashlib
import os
import re
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from shared.errors import AnalyticsError, DependencyError, SchemaOutdated
from shared.logs import configure_logs
from shared.postgres import Cursor, Database
from shared.settings import MigrateSettings, load_or_exit
from shared.statements import SQL_FOLDER, load_statements

_FILE_NAME = re.compile(r"([0-9]{4})_([a-z0-9_]+)\.sql")
_SQL = load_statements("migrate.sql")
_CITUS = load_statements("citus.sql")

_CLUSTER = {
    "has_citus": "the database is not that of a Citus coordinator: the extension citus is missing there",
    "has_nodes": "the Citus coordinator has no node to spread tables over: name them with citus_add_node",
}
"""What makes a database a cluster's, each with what to say where it is missing. In the order of the looks."""


@dataclass(frozen=True)
class Migration:
    """One numbered file of sql/migrations."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, to notice that an applied migration was edited."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations(folder: Path = SQL_FOLDER / "migrations") -> list[Migration]:
    """Read the migrations in order. Raises ValueError on a bad name or a gap in the numbers."""
    found = []
    for path in sorted(folder.glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            raise ValueError(f"{path.name} is not named NNNN_name.sql")
        found.append(Migration(int(match[1]), match[2], path.read_text(encoding="utf-8")))
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError("the numbers of sql/migrations have a gap or stand twice")
    return found


def migrate(database: Database) -> list[Migration]:
    """Apply what is missing and return it. On a Citus cluster spread the tables too, unless they hold events.

    Raises DatabaseUnavailable, or AnalyticsError that names the migration.
    """
    applied = []
    for migration in migrations():
        try:
            with database.transaction(time_limit_seconds=3600) as cur:
                if _apply(cur, migration):
                    applied.append(migration)
        except DependencyError:
            raise
        except AnalyticsError as error:
            raise AnalyticsError(f"migration {migration.version:04} {migration.name}: {error}") from error
    distribute(database, with_events=False)
    return applied


def distribute(database: Database, *, with_events: bool) -> bool:
    """Spread the tables over a Citus cluster's nodes, where that is still to be done; return whether it was.

    with_events: also where that moves events. Raises as migrate does.
    """
    with database.transaction(time_limit_seconds=24 * 3600) as cur:
        cur.execute(_SQL["lock"])
        if _lacking(cur) or _holds(cur, "is_distributed"):
            return False
        if _holds(cur, "has_events") and not with_events:
            return False
        cur.execute(_CITUS["take_long"])
        cur.execute(_CITUS["scope"])
        cur.execute(_CITUS["distribute"])
    return True


def lacking_of_cluster(database: Database) -> str:
    """Say what the database lacks to be a cluster's; empty when nothing. Raises DatabaseUnavailable."""
    with database.query(time_limit_seconds=60) as cur:
        return _lacking(cur)


def _lacking(cur: Cursor) -> str:
    return next((said for condition, said in _CLUSTER.items() if not _holds(cur, condition)), "")


def _holds(cur: Cursor, condition: str) -> bool:
    cur.execute(_CITUS[condition])
    return cur.fetchone() == (True,)


def _apply(cur: Cursor, migration: Migration) -> bool:
    """Apply one migration unless it stands in the list; another run may be at it, so lock first."""
    cur.execute(_SQL["lock"])
    cur.execute(_SQL["create_list"])
    cur.execute(_SQL["find"], {"version": migration.version})
    row = cur.fetchone()
    if row is not None:
        if row[0] != migration.checksum:
            raise AnalyticsError("was edited after it was applied; put the change into a new migration")
        return False
    cur.execute(migration.sql)
    cur.execute(
        _SQL["record"],
        {"version": migration.version, "name": migration.name, "checksum": migration.checksum},
    )
    return True


@cache
def _newest_version() -> int:
    return migrations()[-1].version


def check_schema(cur: Cursor) -> None:
    """Raise SchemaOutdated when the database lacks a migration this release knows."""
    cur.execute(_SQL["has_list"])
    current = None
    if cur.fetchone() == (True,):
        cur.execute(_SQL["current_version"])
        current = (cur.fetchone() or (None,))[0]
    newest = _newest_version()
    if current is None or current < newest:
        raise SchemaOutdated(
            f"the database is at migration {current}, this release needs {newest}: "
            "run python -m shared.migrate"
        )


class SchemaCheck:
    """Looks whether the database has this release's schema, over a connection of its own. For any thread."""

    def __init__(self, database_url: str, application_name: str) -> None:
        self._database = Database(
            database_url, application_name=application_name, statement_timeout_seconds=3
        )
        self._lock = threading.Lock()
        self.was_there = False
        """Whether the schema was seen since the process began."""

    def check(self) -> None:
        """Look now. Raises SchemaOutdated or DatabaseUnavailable."""
        with self._lock, self._database.query(time_limit_seconds=4) as cur:
            check_schema(cur)

    def require(self) -> None:
        """Look until the schema was seen once. Raises as check does.

        At first the database may still have to be migrated. What is missing later is a fault, and ends the
        process.
        """
        if not self.was_there:
            self.check()
            self.was_there = True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m shared.migrate",
        description="Brings the database schema up to date. Safe twice, at once, and beside a running fleet."
        " On a Citus cluster it spreads the tables too, unless they hold events. Settings come from the"
        " environment; DATABASE_URL is the schema owner's.",
    )
    text = (
        "then spread the tables over a Citus cluster's nodes, with the events they hold; this locks them:"
        " stop the ingestors and the rollup workers first"
    )
    commands = parser.add_subparsers(dest="command", metavar="command")
    commands.add_parser("distribute", help=text, description=f"Bring the schema up to date, {text}.")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 when all is as was asked for, 1 when it is not. Wrong arguments end it with 2."""
    wants_distributed = _parser().parse_args(arguments).command == "distribute"
    settings = load_or_exit(MigrateSettings, os.environ)
    log = configure_logs(settings, "migrate")
    database = Database(
        settings.database_url,
        application_name="migrate",
        statement_timeout_seconds=1800,
        lock_timeout_seconds=60,
    )
    try:
        if wants_distributed and (lacking := lacking_of_cluster(database)):
            log.error("nothing was changed", error=lacking)
            return 1
        applied = migrate(database)
        if wants_distributed:
            distribute(database, with_events=True)
    except AnalyticsError as error:
        log.error("migration failed, nothing of it was kept", error=str(error))  # noqa: TRY400  the message says it all
        return 1
    finally:
        database.close()
    for migration in applied:
        log.info("migration applied", version=migration.version, name=migration.name)
    if wants_distributed:
        log.info("tables are distributed by organisation")
    log.info("schema is up to date", version=migrations()[-1].version)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
