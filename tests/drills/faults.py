"""The faults of drills: each has a name, what it hits, how it begins and how it ends.

Named `target.what`, with Toxiproxy's words for a network (latency, timeout, reset_peer, limit_data, down) and
Jepsen's for processes (kill, pause). `can_break` names the invariants that it is meant to try.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from psycopg2 import Error as DatabaseError

from tests.drills.scene import SLOTS, Scene

_OF_NETWORK = {"latency", "timeout", "down", "reset_peer", "limit_data", "commit_reply_lost"}


@dataclass(frozen=True)
class Fault:
    """A fault. seconds: how long it is held, at least and at most; weight: its share of random plans."""

    name: str
    begin: Callable[[Scene], None]
    end: Callable[[Scene], None]
    can_break: str
    seconds: tuple[float, float] = (1.0, 4.0)
    weight: int = 2

    @property
    def is_of_network(self) -> bool:
        """Whether a proxy counts what it disturbs."""
        return self.name.partition(".")[2] in _OF_NETWORK

    @property
    def target(self) -> str:
        """What it hits; two faults of one target never overlap."""
        return self.name.partition(".")[0].removesuffix("-2")


def _kill(slot: str, scene: Scene) -> None:
    scene.down.add(slot)
    scene.processes[slot].kill()


def _launch(slot: str, scene: Scene) -> None:
    if slot in scene.down:
        scene.launch(slot)


def _signal(slot: str, number: signal.Signals, scene: Scene) -> None:
    os.killpg(scene.processes[slot].popen.pid, number)


def _term(slot: str, scene: Scene) -> None:
    scene.down.add(slot)
    scene.processes[slot].send(signal.SIGTERM)


def _term_end(slot: str, scene: Scene) -> None:
    code = scene.processes[slot].popen.wait(timeout=40)
    scene.launch(slot)
    assert code == 0, f"{slot} ended with {code} after SIGTERM"


def _of_process(slot: str) -> list[Fault]:
    stop, go = partial(_signal, slot, signal.SIGSTOP), partial(_signal, slot, signal.SIGCONT)
    invariants = {"gateway": "I7 I9", "export_worker": "I4 I5"}.get(slot, "I1 I2 I3")
    return [
        Fault(f"{slot}.kill", partial(_kill, slot), partial(_launch, slot), invariants, (0.1, 2.0), 4),
        Fault(f"{slot}.pause", stop, go, invariants, (3.0, 12.0)),
        Fault(f"{slot}.term", partial(_term, slot), partial(_term_end, slot), invariants, (0.1, 1.0)),
    ]


def _kill_before_commit(scene: Scene) -> None:
    """Let batches wait for a lock, and kill both ingestors before they can commit."""
    _hold_lock("ingestor.kill_before_commit", "event_keys", scene)
    deadline = time.monotonic() + 8
    waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with scene.owner() as owner, owner.cursor() as cur:
        while time.monotonic() < deadline:
            cur.execute(waiting)
            if cur.rowcount:
                break
            time.sleep(0.05)
        else:
            raise AssertionError("no batch came to wait")
    time.sleep(0.5)  # an acknowledgement that was sent too early gets to the broker
    for slot in ("ingestor", "ingestor-2"):
        _kill(slot, scene)


def _kill_before_commit_end(scene: Scene) -> None:
    _release("ingestor.kill_before_commit", scene)
    for slot in ("ingestor", "ingestor-2"):
        _launch(slot, scene)


def _hold_lock(name: str, table: str, scene: Scene) -> None:
    held = scene.held[name] = ExitStack()
    owner = held.enter_context(scene.owner())
    owner.autocommit = False
    with owner.cursor() as cur:
        cur.execute(f"LOCK TABLE analytics.{table} IN ACCESS EXCLUSIVE MODE")


def _release(name: str, scene: Scene) -> None:
    scene.held.pop(name, ExitStack()).close()


def _kill_backends(name: str, scene: Scene) -> None:
    """End every connection to the drill's database again and again."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(0.2):
            try:
                with scene.owner() as owner, owner.cursor() as cur:
                    cur.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                        " AND usename <> current_user"
                    )
            except DatabaseError:
                continue

    thread = threading.Thread(target=run)
    thread.start()
    held = scene.held[name] = ExitStack()
    held.callback(thread.join)
    held.callback(ended.set)


def _immediate(scene: Scene) -> None:
    server = scene.server("postgresql")
    server.signal_server(signal.SIGQUIT)
    server.guard.wait(timeout=20)


def _server_signal(target: str, number: signal.Signals, scene: Scene) -> None:
    scene.server(target).signal_server(number)


def _server_kill(target: str, scene: Scene) -> None:
    scene.server(target).kill()


def _server_start(target: str, scene: Scene) -> None:
    scene.server(target).start_again()


def _latency(target: str, seconds: float, scene: Scene) -> None:
    scene.proxies[target].delay_seconds = seconds


def _timeout(target: str, scene: Scene) -> None:
    scene.proxies[target].mode = "blackhole"


def _down(target: str, scene: Scene) -> None:
    scene.proxies[target].mode = "refuse"
    scene.proxies[target].reset_connections()


def _reset(target: str, scene: Scene) -> None:
    scene.proxies[target].reset_connections()


def _limit_data(target: str, size_bytes: int | None, scene: Scene) -> None:
    scene.proxies[target].cut_replies_after(size_bytes)


def _lose_reply(marker: bytes | None, scene: Scene) -> None:
    scene.proxies["postgresql"].lose_reply_to = marker


def _pass(target: str, scene: Scene) -> None:
    """Pass bytes again; connections that swallowed some are of no use any more."""
    scene.proxies[target].mode = "pass"
    scene.proxies[target].reset_connections()


def _nothing(scene: Scene) -> None:
    """There is nothing to end."""


def _of_server(target: str, invariants: str, limit_bytes: int) -> list[Fault]:
    stop = partial(_server_signal, target, signal.SIGSTOP)
    go = partial(_server_signal, target, signal.SIGCONT)
    slow, quick = partial(_latency, target, 0.2), partial(_latency, target, 0.0)
    again, again_whole = partial(_pass, target), partial(_limit_data, target, None)
    return [
        Fault(
            f"{target}.kill",
            partial(_server_kill, target),
            partial(_server_start, target),
            invariants,
            (0.5, 3),
            1,
        ),
        Fault(f"{target}.pause", stop, go, invariants, (2, 8)),
        Fault(f"{target}.latency", slow, quick, invariants, (2, 8)),
        Fault(f"{target}.timeout", partial(_timeout, target), again, invariants, (2, 8)),
        Fault(f"{target}.down", partial(_down, target), again, invariants, (1, 5)),
        Fault(f"{target}.reset_peer", partial(_reset, target), _nothing, invariants, (0.1, 0.2), 4),
        Fault(
            f"{target}.limit_data", partial(_limit_data, target, limit_bytes), again_whole, invariants, (1, 3)
        ),
    ]


def _all() -> list[Fault]:
    lock, backends = "postgresql.lock", "postgresql.kill_backends"
    return [
        *(fault for slot in SLOTS for fault in _of_process(slot)),
        Fault(
            "ingestor.kill_before_commit",
            _kill_before_commit,
            _kill_before_commit_end,
            "I1 I3",
            (0.1, 1.0),
            2,
        ),
        *_of_server("postgresql", "I1 I2 I3 I4 I7 I9", 50_000),
        Fault(
            "postgresql.immediate",
            _immediate,
            partial(_server_start, "postgresql"),
            "I1 I2 I3 I4",
            (0.1, 1),
            2,
        ),
        Fault(lock, partial(_hold_lock, lock, "event_keys"), partial(_release, lock), "I1 I3 I8", (2, 8)),
        Fault(
            backends, partial(_kill_backends, backends), partial(_release, backends), "I1 I2 I3 I9", (1, 4)
        ),
        Fault(
            "postgresql.commit_reply_lost",
            partial(_lose_reply, b"COMMIT;"),
            partial(_lose_reply, None),
            "I1 I2 I4 I9",
            (1, 3),
            4,
        ),
        *_of_server("rabbitmq", "I1 I3 I8", 5_000),
        *_of_server("redis", "I7", 2_000),
        *_of_server("s3", "I4 I5 I7", 2_000),
    ]


FAULTS = {fault.name: fault for fault in _all()}
"""Every fault by its name."""
