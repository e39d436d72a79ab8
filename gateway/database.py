"""The gateway's use of PostgreSQL: scoped, pooled, bounded, tried again over a restart of the server.

Every statement runs in a scope, which the database itself holds to: one organisation, all, or none.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import copy
from functools import partial
from typing import Any, Self, TypeVar

from gateway.aside import Aside
from shared.errors import DatabaseBusy, DatabaseUnavailable
from shared.metrics import GatewayMetrics
from shared.postgres import Beginning, Cursor, Database, Pool, Row, fetch_rows
from shared.statements import bare, load_statements

T = TypeVar("T")

_SQL = bare(load_statements("scope.sql"))

STATEMENT_SECONDS = 5.0
_LIMIT_SECONDS = STATEMENT_SECONDS + 2
_AT_ONCE_SECONDS = 1.0

# The first try again is for a connection that died idle. The others are for a server that has just restarted
# itself: it refuses connections while it recovers, in 1 to 15 ms each, for 0.6 s when it had little to do.
_PAUSES_SECONDS = (0.0, 0.1, 0.2, 0.4, 0.8)

CONNECTION_WAIT_SECONDS = 2.0
MAX_SECONDS = 300.0
"""The longest an answer that is sent bit by bit may take, its client's slowness included."""
_ROWS_AT_ONCE = 500
POOL_SIZE = 4
"""Connections of each gunicorn worker. More requests than that wait their turn."""


def scope_of(org_id: str) -> Beginning:
    """Return what begins a transaction that sees one organisation."""
    return " ".join((_SQL["one_org"], _SQL["scope"])), {"org_id": org_id}


NO_ORG: Beginning = (_SQL["one_org"], {})
"""What begins a transaction that sees no organisation."""

_ALL_ORGS: Beginning = (_SQL["all_orgs"], {})


class GatewayDatabase:
    """Statements of the gateway, for any thread. Sees no organisation; of() and of_all() do."""

    def __init__(self, database_url: str, metrics: GatewayMetrics) -> None:
        self._scope = NO_ORG
        self._connections = _Connections(database_url, metrics)

    def of(self, org_id: str) -> Self:
        """Return the same that sees one organisation."""
        return self._scoped(scope_of(org_id))

    def of_all(self) -> Self:
        """Return the same that sees all organisations."""
        return self._scoped(_ALL_ORGS)

    def _scoped(self, scope: Beginning) -> Self:
        scoped = copy(self)
        scoped._scope = scope
        return scoped

    def rows(self, statement: str, parameters: Mapping[str, object]) -> list[Row]:
        """Run a read and return its rows. Raises DatabaseUnavailable."""

        def fetch(database: Database) -> list[Row]:
            with database.query(time_limit_seconds=_LIMIT_SECONDS, beginning=self._scope) as cur:
                return fetch_rows(cur, statement, parameters)

        return self._connections.use(fetch)

    def snapshot(self, read: Callable[[Cursor], T], *, time_limit_seconds: float | None = None) -> T:
        """Run several reads over one state of the database, perhaps twice. Raises DatabaseUnavailable."""
        limit = time_limit_seconds or _LIMIT_SECONDS

        def fetch(database: Database) -> T:
            with database.transaction(
                repeatable_read=True, read_only=True, time_limit_seconds=limit, beginning=self._scope
            ) as cur:
                return read(cur)

        return self._connections.use(fetch)

    def transaction(self, work: Callable[[Cursor], T]) -> T:
        """Do the work in one transaction and return what it returns: all of it is committed, or nothing.

        The work may be done again; what earlier tries did is then undone. Raises DatabaseUnavailable; if
        that was at the commit, it may have been committed all the same.
        """

        def commit(database: Database) -> T:
            committing = False
            try:
                with database.transaction(time_limit_seconds=_LIMIT_SECONDS, beginning=self._scope) as cur:
                    done = work(cur)
                    committing = True
            except DatabaseUnavailable as error:
                if committing:
                    raise _CommitLost(str(error)) from error
                raise
            return done

        return self._connections.use(commit)

    def begin(self, opened: ExitStack, first: str, fetch: Callable[[Cursor], T]) -> tuple["Open", T]:
        """Begin to read one state of the database, and return what a first short read finds.

        first: its statement, which is sent with the begin. fetch: takes its rows. opened: closes the
        transaction and gives its connection back. Raises DatabaseUnavailable.
        """

        def open_one(database: Database) -> tuple[Open, T]:
            with ExitStack() as opening:
                cur = opening.enter_context(
                    database.transaction(
                        repeatable_read=True,
                        read_only=True,
                        time_limit_seconds=_LIMIT_SECONDS,
                        beginning=self._scope,
                        first=first,
                    )
                )
                found = fetch(cur)
                opened.push(partial(self._connections.end, opening.pop_all()))
                return Open(database, cur, MAX_SECONDS), found

        return self._connections.use_while(opened, open_one)

    def aside(
        self, state: str, statement: str, parameters: Mapping[str, object], *, first: str = ""
    ) -> Aside:
        """Let another connection do a read meanwhile, if one is free.

        state: what it sees, as Open.state() names it. first: a statement that is sent with the begin.
        """
        scope, scoped = self._scope
        # The state first: in a scope the transaction has read something.
        beginning = " ".join((_SQL["same_state"], scope)), {**scoped, "state": state}

        def fetch(cur: Cursor) -> list[tuple[Any, ...]]:
            cur.execute(statement, parameters)
            return cur.fetchall()

        return Aside(partial(self._connections.begin_at_once, beginning, first), fetch)


class _Connections:
    """The pool, and how long to try again."""

    def __init__(self, database_url: str, metrics: GatewayMetrics) -> None:
        self._metrics = metrics
        self._is_away = False
        self._pool = Pool(
            lambda: Database(
                database_url,
                application_name="gateway",
                statement_timeout_seconds=STATEMENT_SECONDS,
                lock_timeout_seconds=STATEMENT_SECONDS,
            ),
            POOL_SIZE,
        )

    def use_while(self, opened: ExitStack, use: Callable[[Database], T]) -> T:
        """Use a connection as use() does, and keep it until `opened` is closed."""
        return self._with(opened.enter_context(self._pool.lend(wait_seconds=CONNECTION_WAIT_SECONDS)), use)

    @contextmanager
    def begin_at_once(self, beginning: Beginning, first: str) -> Iterator[Cursor]:
        """Begin to read with a connection that is free, and try once. Raises DatabaseBusy where none is."""
        with (
            self._pool.lend(wait_seconds=0) as database,
            self._counted(),
            database.transaction(
                repeatable_read=True,
                read_only=True,
                time_limit_seconds=_LIMIT_SECONDS,
                beginning=beginning,
                first=first,
            ) as cur,
        ):
            yield cur

    def use(self, use: Callable[[Database], T]) -> T:
        """Use a connection, and again while it fails at once: a restart of the server takes a moment.

        Once a request has tried in vain for that long, later ones do not wait until one succeeds.
        """
        with self._pool.lend(wait_seconds=CONNECTION_WAIT_SECONDS) as database:
            return self._with(database, use)

    def _with(self, database: Database, use: Callable[[Database], T]) -> T:
        for pause_seconds in (*_PAUSES_SECONDS, None):
            began = time.monotonic()
            try:
                with self._counted():
                    done = use(database)
            except DatabaseUnavailable as error:
                if pause_seconds is None or not _failed_at_once(error, began):
                    self._is_away = True
                    raise
                if pause_seconds and self._is_away:
                    raise
                time.sleep(pause_seconds)
            else:
                self._is_away = False
                return done
        raise AssertionError("the last try returns or raises")

    def end(self, held: ExitStack, *raised: Any) -> bool | None:
        """End what is held open, and count it where it has failed. Takes what __exit__ does."""
        with self._counted():
            return held.__exit__(*raised)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count a failure of the block as a failed use of the server."""
        try:
            yield
        except DatabaseUnavailable:
            self._metrics.dependency_errors.labels(dependency="postgresql").inc()
            raise


class Open:
    """A transaction that is read bit by bit while its answer is sent, within so many seconds in all."""

    def __init__(self, database: Database, cur: Cursor, max_seconds: float) -> None:
        self._database = database
        self._cur = cur
        self._deadline = time.monotonic() + max_seconds

    def rows(self, statement: str, parameters: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """Return the rows of a read that has few."""
        self._database.limit(_LIMIT_SECONDS)
        self._cur.execute(statement, parameters)
        rows: list[tuple[Any, ...]] = self._cur.fetchall()
        self._database.limit(self._left())
        return rows

    def state(self) -> str:
        """Name the state that this transaction reads, before anything in it may be undone."""
        [(name,)] = self.rows(_SQL["state"], {})
        return str(name)

    def stream(
        self,
        statement: str,
        parameters: Mapping[str, object],
        *,
        rows_at_once: int = _ROWS_AT_ONCE,
        as_bytes: bool = False,
        undone_if_too_large: bool = False,
    ) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a read that may have many. rows_at_once: fewer where each is large.

        as_bytes: leave texts in UTF-8, as they are sent. undone_if_too_large: raise NumberTooLarge for a sum
        that is, and let the transaction go on as if this had not been asked for.
        """
        return self._database.stream(
            statement,
            parameters,
            rows_at_once=rows_at_once,
            time_limit_seconds=lambda: _LIMIT_SECONDS,
            pause_seconds=self._left,
            as_bytes=as_bytes,
            undone_if_too_large=undone_if_too_large,
        )

    def _left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())


def _failed_at_once(error: DatabaseUnavailable, began: float) -> bool:
    """Return whether a connection had died idle, or a new one was refused, as after a restart.

    That shows at once. A server that is silent takes a whole limit, and asking it again another one.
    """
    if isinstance(error, DatabaseBusy | _CommitLost):
        return False
    return time.monotonic() - began < _AT_ONCE_SECONDS


class _CommitLost(DatabaseUnavailable):
    """The connection was lost at the commit; nobody knows whether it took place."""
