"""Faults that only PostgreSQL has: locks, deadlocks, a full disk, a standby, too many clients."""

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial

from psycopg2 import Error as DatabaseError
from psycopg2 import sql
from psycopg2.extensions import connection

from deploy.local.api import wait_until
from tests.drills.fault import Fault, MetNothing, hold, release
from tests.drills.scene import Scene

_SPARE_CONNECTIONS = 5
"""For whoever looks, and for PostgreSQL's own reserve."""

_LATE_COMMITS = """
    CREATE SCHEMA IF NOT EXISTS drill;
    CREATE OR REPLACE FUNCTION drill.commit_late() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN IF mod(NEW.batch_id, 4) = 0 THEN PERFORM pg_sleep(4); END IF; RETURN NULL; END $$;
    GRANT USAGE ON SCHEMA drill TO PUBLIC;
    CREATE CONSTRAINT TRIGGER commit_late AFTER INSERT ON analytics.ingestion_batches
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION drill.commit_late()"""
_OTHERS = "datname = current_database() AND pid <> pg_backend_pid() AND usename <> current_user"
_TERMINATE = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {_OTHERS}"
_DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
_CYCLES = (("usage_events", "event_keys"), ("hourly_rollups", "ingestion_batches"))
"""Tables that the fleet writes to in the other order: the ingestor, the rollup worker."""

# One by one: Citus hands on the text of the whole message.
_TO_DEFAULT = (
    "ALTER TABLE analytics.usage_events DETACH PARTITION analytics.{partition}",
    "INSERT INTO analytics.usage_events SELECT * FROM analytics.{partition}",
    "DROP TABLE analytics.{partition}",
)
_OF_THE_DAY = "FROM analytics.usage_events_default WHERE occurred_at >= {start} AND occurred_at < {end}"
_FROM_DEFAULT = (
    "LOCK TABLE analytics.usage_events IN ACCESS EXCLUSIVE MODE",
    "CREATE TABLE analytics.{partition} (LIKE analytics.usage_events INCLUDING ALL)",
    f"INSERT INTO analytics.{{partition}} SELECT * {_OF_THE_DAY}",
    f"DELETE {_OF_THE_DAY}",
    "ALTER TABLE analytics.usage_events ATTACH PARTITION analytics.{partition}"
    " FOR VALUES FROM ({start}) TO ({end})",
)


def hold_lock(name: str, table: str, scene: Scene) -> None:
    """Keep everybody from a table until release()."""
    owner = hold(name, scene).enter_context(scene.owner())
    owner.autocommit = False
    with owner.cursor() as cur:
        cur.execute(sql.SQL("LOCK TABLE analytics.{} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(table)))


def again_and_again(name: str, every_seconds: float, work: Callable[[], None], scene: Scene) -> None:
    """Do it in a thread until release(), whether it succeeds or not."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(every_seconds):
            with suppress(Exception):  # the server may be away, or somebody else quicker
                work()

    thread = threading.Thread(target=run)
    thread.start()
    held = hold(name, scene)
    held.callback(thread.join)
    held.callback(ended.set)


def _kill_backends(name: str, scene: Scene) -> None:
    """End every connection to the drill's database again and again."""

    def work() -> None:
        with scene.owner() as owner, owner.cursor() as cur:
            cur.execute(_TERMINATE)

    again_and_again(name, 0.2, work, scene)


def _immediate(scene: Scene) -> None:
    scene.server("postgresql").stop_and_wait(signal.SIGQUIT)


def _start(scene: Scene) -> None:
    scene.server("postgresql").start_again()


def _become_standby(scene: Scene) -> None:
    """Stop PostgreSQL and start it again as a standby that has all the data and takes no write."""
    data = scene.postgres_folder / "data"
    owner = data.stat()
    scene.server("postgresql").stop_and_wait(signal.SIGINT)
    told = data / "standby.signal"
    told.touch(mode=0o600)
    scene.give(told, owner.st_uid)
    scene.server("postgresql").start_again()


def _promote(scene: Scene) -> None:
    server = scene.server("postgresql")
    if server.guard.poll() is not None:
        server.start_again()
    with scene.owner() as owner, owner.cursor() as cur:
        cur.execute("SELECT pg_is_in_recovery() AND pg_promote(true, 30)")


def _fill_disk(scene: Scene) -> None:
    if scene.disk is None:
        raise MetNothing("a small disk takes the right to mount one")
    scene.marks["postgresql.disk_full"] = scene.server("postgresql").log.stat().st_size
    scene.disk.fill()


def _empty_disk(scene: Scene) -> None:
    if scene.disk is None:
        return
    scene.disk.empty()
    server = scene.server("postgresql")
    time.sleep(0.5)  # for a server that is about to end
    if server.guard.poll() is not None or not server.ready():
        with suppress(Exception):
            server.stop_and_wait(signal.SIGKILL)
        server.start_again()
    _require_in_log("postgresql.disk_full", "No space left on device", scene)


def _require_in_log(name: str, words: str, scene: Scene) -> None:
    """Raise MetNothing unless PostgreSQL has said this since the fault began."""
    with scene.server("postgresql").log.open(errors="replace") as log:
        log.seek(scene.marks.pop(name, 0))
        if words not in log.read():
            raise MetNothing(f"nobody met: {words}")


def _take_all_connections(name: str, scene: Scene) -> None:
    scene.marks[name] = scene.server("postgresql").log.stat().st_size
    taken: list[connection] = []

    def take() -> None:
        with scene.owner() as owner, owner.cursor() as cur:
            cur.execute(_TERMINATE)
            cur.execute(
                "SELECT current_setting('max_connections')::int - count(*) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend'"
            )
            [(free,)] = cur.fetchall()
        with suppress(DatabaseError):  # somebody else came first: there is none left
            for _ in range(free - _SPARE_CONNECTIONS):
                taken.append(scene.connect())  # noqa: PERF401  those before an error are to be closed too

    def give_back() -> None:
        for each in taken:
            each.close()

    take()
    again_and_again(name, 0.1, take, scene)
    threads = scene.held.pop(name)
    held = hold(name, scene)
    held.callback(give_back)
    held.push(threads)


def _give_connections_back(name: str, scene: Scene) -> None:
    release(name, scene)
    # The last three are kept for superusers, and this is what everybody else is told.
    _require_in_log(name, "remaining connection slots are reserved", scene)


def _commit_late(scene: Scene) -> None:
    with scene.owner() as owner, owner.cursor() as cur:
        cur.execute("SET lock_timeout = '8s'")
        cur.execute(_LATE_COMMITS)


def _commit_at_once(scene: Scene) -> None:
    with scene.owner() as owner, owner.cursor() as cur:
        cur.execute("DROP TRIGGER IF EXISTS commit_late ON analytics.ingestion_batches")


def _deadlock(name: str, scene: Scene) -> None:
    """Take the fleet's locks in the other order; it is always the fleet's process that is the victim."""
    cycles = iter(_CYCLES * 1000)

    def work() -> None:
        first, second = next(cycles)
        with scene.owner() as owner, scene.owner() as looker, owner.cursor() as cur, looker.cursor() as look:
            owner.autocommit = False
            cur.execute("SET deadlock_timeout = '1h'; SET lock_timeout = '5s'")
            cur.execute(f"LOCK TABLE analytics.{first} IN SHARE MODE")
            me = owner.info.backend_pid

            def somebody_waits() -> bool:
                look.execute(
                    "SELECT FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
                    " AND wait_event_type = 'Lock'",
                    (me,),
                )
                return look.rowcount > 0

            wait_until(somebody_waits, seconds=3, what="a wait for the first lock", every_seconds=0.02)
            cur.execute(f"LOCK TABLE analytics.{second} IN EXCLUSIVE MODE")
            owner.rollback()

    scene.marks[name] = _deadlocks(scene)
    again_and_again(name, 0.3, work, scene)


def _deadlocks(scene: Scene) -> int:
    with scene.owner() as owner, owner.cursor() as cur:
        cur.execute(_DEADLOCKS)
        [(count,)] = cur.fetchall()
    return int(count)


def _no_more_deadlocks(name: str, scene: Scene) -> None:
    release(name, scene)
    before = scene.marks.pop(name, 0)
    deadline = time.monotonic() + 3  # the statistics come a moment later
    while _deadlocks(scene) == before:
        if time.monotonic() > deadline:
            raise MetNothing("no deadlock came about")
        time.sleep(0.2)


def _of_today(statements: tuple[str, ...], scene: Scene) -> None:
    start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    names = {
        "partition": sql.Identifier(f"usage_events_{start:%Y%m%d}"),
        "start": sql.Literal(start.isoformat()),
        "end": sql.Literal((start + timedelta(days=1)).isoformat()),
    }
    with scene.owner() as owner, owner.cursor() as cur:
        owner.autocommit = False
        cur.execute("SET lock_timeout = '8s'")
        cur.execute("SELECT to_regclass(%s)", (f"analytics.usage_events_{start:%Y%m%d}",))
        [(there,)] = cur.fetchall()
        if (there is None) == (statements is _FROM_DEFAULT):
            for statement in statements:
                cur.execute(sql.SQL(statement).format(**names))
        elif statements is _TO_DEFAULT:
            raise MetNothing("today has no partition anyway")
        owner.commit()


def database_faults() -> list[Fault]:
    """Return those that only PostgreSQL has."""
    lock, backends, deadlock = "postgresql.lock", "postgresql.kill_backends", "postgresql.deadlock"
    clients = "postgresql.too_many_clients"
    return [
        Fault("postgresql.immediate", _immediate, _start, "I1 I2 I3 I4", (0.1, 1)),
        Fault(lock, partial(hold_lock, lock, "event_keys"), partial(release, lock), "I1 I3 I8", (2, 8)),
        Fault(backends, partial(_kill_backends, backends), partial(release, backends), "I1 I2 I3 I9", (1, 4)),
        Fault("postgresql.read_only", _become_standby, _promote, "I1 I2 I3 I8 I9", (3, 8), 1),
        Fault("postgresql.disk_full", _fill_disk, _empty_disk, "I1 I2 I3 I4 I8", (3, 8), 1),
        Fault(
            clients,
            partial(_take_all_connections, clients),
            partial(_give_connections_back, clients),
            "I1 I3 I7 I8",
            (2, 6),
            1,
        ),
        Fault("postgresql.late_commit", _commit_late, _commit_at_once, "I1 I2", (5, 10)),
        Fault(
            deadlock, partial(_deadlock, deadlock), partial(_no_more_deadlocks, deadlock), "I1 I2 I3", (4, 8)
        ),
        Fault(
            "postgresql.missing_partition",
            partial(_of_today, _TO_DEFAULT),
            partial(_of_today, _FROM_DEFAULT),
            "I1 I2",
            (2, 5),
            1,
        ),
    ]
