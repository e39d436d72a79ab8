"""Faults of the fleet's processes: killed, frozen, stopped, at a wrong hour, of the release before."""

import os
import random
import signal
import socket
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil

from tests.drills.database_faults import hold_lock
from tests.drills.fault import Fault, MetNothing, hold, nothing, release
from tests.drills.scene import SLOTS, Scene
from tests.support.raw_http import USAGE, dial, get

_FAKETIME = "/usr/lib/*/faketime/libfaketime.so.1"
_CLIENTS = 200
_START_SECONDS = 5
_KILLS_IN_A_ROW = 10
_ALONE = {"gateway.release_before"}
"""Not beside other faults."""


def _kill(slot: str, scene: Scene) -> None:
    scene.down.add(slot)
    scene.processes[slot].kill()


def launch(slot: str, scene: Scene) -> None:
    """Start a process again that a fault has taken down."""
    if slot in scene.down:
        scene.launch(slot)


def _signal(slot: str, number: signal.Signals, scene: Scene) -> None:
    os.killpg(scene.processes[slot].popen.pid, number)


def _term(slot: str, scene: Scene) -> None:
    if not scene.processes[slot].lives():
        raise MetNothing("it is still starting, and SIGTERM ends it as it ends any program")
    scene.down.add(slot)
    scene.processes[slot].send(signal.SIGTERM)


def _term_end(slot: str, scene: Scene) -> None:
    if slot not in scene.down:
        return
    code = scene.processes[slot].popen.wait(timeout=40)
    scene.launch(slot)
    assert code == 0, f"{slot} ended with {code} after SIGTERM"


def swap(slot: str, scene: Scene) -> None:
    """Stop a process as an upgrade does; another is launched in its place."""
    scene.down.add(slot)
    scene.processes[slot].stop()


def _release_before(slot: str, scene: Scene) -> None:
    root = scene.release_before()
    swap(slot, scene)
    scene.launch(slot, root=root)
    scene.processes[slot].wait_ready(20)


def _at_another_hour(slot: str, offset: str, scene: Scene) -> None:
    found = sorted(Path("/").glob(_FAKETIME[1:]))
    if not found:
        raise MetNothing("libfaketime is not installed")
    swap(slot, scene)
    # The clock on the wall alone: what waits, waits by the other.
    scene.launch(slot, LD_PRELOAD=str(found[0]), FAKETIME=offset, DONT_FAKE_MONOTONIC="1", NO_FAKE_STAT="1")


def _this_again(slot: str, scene: Scene) -> None:
    swap(slot, scene)
    scene.launch(slot)


def _of_process(slot: str) -> list[Fault]:
    stop, go = partial(_signal, slot, signal.SIGSTOP), partial(_signal, slot, signal.SIGCONT)
    invariants = {"gateway": "I7 I9", "export_worker": "I4 I5"}.get(slot, "I1 I2 I3")
    faults = [
        Fault(f"{slot}.kill", partial(_kill, slot), partial(launch, slot), invariants, (0.1, 2.0), 4),
        Fault(f"{slot}.pause", stop, go, invariants, (3.0, 12.0)),
        Fault(f"{slot}.term", partial(_term, slot), partial(_term_end, slot), invariants, (0.1, 1.0)),
    ]
    if slot == "ingestor-2":
        return faults
    again = partial(_this_again, slot)
    begins = {
        "release_before": partial(_release_before, slot),
        "hour_ahead": partial(_at_another_hour, slot, "+1h"),
        "hour_behind": partial(_at_another_hour, slot, "-1h"),
    }
    return faults + [
        # The gateway of the release before answers 500 on a standby, which a plan may have at the same time.
        Fault(f"{slot}.{name}", begin, again, invariants, (3.0, 8.0), int(f"{slot}.{name}" not in _ALONE))
        for name, begin in begins.items()
    ]


def _kill_before_commit(scene: Scene) -> None:
    """Let batches wait for a lock, and kill both ingestors before they can commit."""
    hold_lock("ingestor.kill_before_commit", "event_keys", scene)
    deadline = time.monotonic() + 8
    waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with scene.owner() as owner, owner.cursor() as cur:
        while time.monotonic() < deadline:
            cur.execute(waiting)
            if cur.rowcount:
                break
            time.sleep(0.05)
        else:
            raise MetNothing("no batch came to wait")
    time.sleep(0.5)  # an acknowledgement that was sent too early gets to the broker
    for slot in ("ingestor", "ingestor-2"):
        _kill(slot, scene)


def _kill_before_commit_end(scene: Scene) -> None:
    release("ingestor.kill_before_commit", scene)
    for slot in ("ingestor", "ingestor-2"):
        launch(slot, scene)


def _kill_again_and_again(scene: Scene) -> None:
    """Kill both ingestors while they hold all they asked for, ten times: nothing innocent may be given up."""
    slots = ("ingestor", "ingestor-2")
    scene.down.update(slots)
    for number in range(_KILLS_IN_A_ROW):
        if number:
            for slot in slots:
                scene.launch(slot)
                scene.down.add(slot)  # whoever starts what has ended leaves these alone
            with suppress(AssertionError):
                scene.processes["ingestor"].wait_ready(5)
        for slot in slots:
            _kill(slot, scene)


def _kill_again_and_again_end(scene: Scene) -> None:
    for slot in ("ingestor", "ingestor-2"):
        launch(slot, scene)


def _kill_gateway_worker(scene: Scene) -> None:
    master = psutil.Process(scene.processes["gateway"].popen.pid)
    until = time.monotonic() + _START_SECONDS
    while not (workers := master.children()):  # it was started just now
        if time.monotonic() > until:
            raise MetNothing("no worker yet")
        time.sleep(0.1)
    random.choice(workers).kill()


def _slow_clients(scene: Scene) -> None:
    """Let 200 clients send a byte of their request now and then."""
    held = hold("gateway.slow_clients", scene)
    clients: list[socket.socket] = []
    begun = get(USAGE)[:-2] + b"X-More: "
    with suppress(OSError):
        for _ in range(_CLIENTS):
            client = held.enter_context(dial(scene.processes["gateway"]))
            client.sendall(begun)
            clients.append(client)
    stopping = threading.Event()

    def drip() -> None:
        while not stopping.wait(0.3):
            for client in clients:
                with suppress(OSError):
                    client.sendall(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    held.callback(thread.join)
    held.callback(stopping.set)
    if not clients:
        raise MetNothing("the gateway takes no connection")


def process_faults() -> list[Fault]:
    """Return them all."""
    clients = "gateway.slow_clients"
    return [
        *(fault for slot in SLOTS for fault in _of_process(slot)),
        Fault(
            "ingestor.kill_before_commit",
            _kill_before_commit,
            _kill_before_commit_end,
            "I1 I3",
            (0.1, 1.0),
        ),
        Fault(
            "ingestor.kill_10_times",
            _kill_again_and_again,
            _kill_again_and_again_end,
            "I1 I3",
            (0.1, 0.2),
            0,
        ),
        Fault("gateway.worker_kill", _kill_gateway_worker, nothing, "I7 I9", (0.5, 2.0), 4),
        Fault(clients, _slow_clients, partial(release, clients), "I7 I8", (4.0, 8.0), 1),
    ]
