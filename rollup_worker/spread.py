"""What is different where a Citus cluster spreads organisations over its nodes (sql/citus.sql).

A transaction that wrote on several nodes is seen on the coordinator first, and on each node a moment later;
where that node is lost just then, only when it is back. And a statement that locks rows, or finds them by
their place in a table, may touch one organisation.
"""

import time
from typing import Any

from shared.errors import DatabaseBusy, DatabaseUnavailable
from shared.postgres import Cursor, fetch_rows
from shared.statements import load_statements

_SQL = load_statements("spread.sql")
_ROLLUPS = load_statements("rollups.sql")
_VERIFY = load_statements("verify.sql")
_MAX_WAIT_SECONDS = 5.0
_PAUSE_SECONDS = 0.02


def is_spread(cur: Cursor) -> bool:
    """Return whether organisations are spread over several nodes."""
    cur.execute(_SQL["is_spread"])
    return bool(cur.fetchone() == (True,))


def at_once(cur: Cursor, org_ids: list[str]) -> list[list[str]]:
    """Return the organisations in the lists that a statement may be given."""
    if org_ids and is_spread(cur):
        return [[org_id] for org_id in org_ids]
    return [org_ids] if org_ids else []


def keep_rollups_out(cur: Cursor) -> None:
    """Wait for rollups under way, on every node, and keep new ones out until the end of the transaction.

    Raises DatabaseUnavailable where a node cannot be asked, or has what it was not told to commit yet.
    """
    cur.execute(_ROLLUPS["lock_rollups"])
    if is_spread(cur):
        _wait_committed(cur)


def begin_move(cur: Cursor) -> None:
    """Say that an hour is being added to days, in the transaction that does so, at its end.

    The coordinator knows it a moment before the nodes: whoever reads meanwhile tries again (shared/kept.py).
    """
    if is_spread(cur):
        cur.execute(_SQL["begin_move"])
        cur.execute(_SQL["move"])


def end_move(cur: Cursor) -> None:
    """Say that every node has what was added, or none; before an hour is added, and after it.

    Nobody else adds one until the end of the transaction. Raises DatabaseUnavailable.
    """
    if is_spread(cur):
        cur.execute(_SQL["lock_moves"])
        _wait_committed(cur)
        cur.execute(_SQL["end_move"])


def _wait_committed(cur: Cursor) -> None:
    left = _prepared(cur)
    deadline = time.monotonic() + _MAX_WAIT_SECONDS
    while left:
        if time.monotonic() > deadline:
            raise DatabaseBusy(f"nodes have not been told to commit yet: {', '.join(sorted(left))}")
        time.sleep(_PAUSE_SECONDS)
        left &= _prepared(cur)


def _prepared(cur: Cursor) -> set[str]:
    """Return the names of the transactions that nodes have prepared, and not committed yet."""
    found: set[str] = set()
    for node in fetch_rows(cur, _SQL["prepared"]):
        if not node["success"]:
            raise DatabaseUnavailable(f"node {node['nodename']}:{node['nodeport']}: {node['result']}")
        found |= set(node["result"].split())
    return found


def gather(cur: Cursor, statement: str, parameters: dict[str, object], events: int) -> None:
    """Gather the events of claimed batches, so many in all.

    Raises DatabaseBusy where not all of them are seen yet.
    """
    cur.execute(statement, parameters)
    deadline = time.monotonic() + _MAX_WAIT_SECONDS
    while cur.rowcount < events and is_spread(cur):
        if time.monotonic() > deadline:
            raise DatabaseBusy("not all events of a batch are seen: a node was not told to commit yet")
        time.sleep(_PAUSE_SECONDS)
        cur.execute(_ROLLUPS["empty_gathered"])
        cur.execute(statement, parameters)


def shown(cur: Cursor) -> dict[str, Any]:
    """Return the parameters that say which batches the rollups show; see the statement."""
    [row] = fetch_rows(cur, _VERIFY["shown"])
    return dict(row)
