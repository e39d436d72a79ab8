"""Faults that only RabbitMQ has: its alarms, its consumer timeout, its queue deleted."""

import os
import subprocess
import time
from contextlib import ExitStack
from functools import partial
from urllib.parse import urlsplit

import pika

from deploy.local import machine
from tests.drills.database_faults import hold_lock
from tests.drills.fault import Fault, MetNothing, nothing, release
from tests.drills.scene import Scene

_PATIENCE_SECONDS = 10
_MAX_SECONDS = 120
"""For rabbitmqctl, which takes seconds of a processor to start."""


def _control(scene: Scene, *arguments: str) -> str:
    """Run rabbitmqctl; return what it wrote. Raises AssertionError when it fails."""
    server = scene.server("rabbitmq")
    user_id = machine.server_user_id()
    identity = {} if user_id < 0 else {"user": user_id, "group": user_id, "extra_groups": []}
    done = subprocess.run(
        [str(machine.rabbitmq_folder() / "rabbitmqctl"), "-q", *arguments],
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **server.environ},
        cwd=server.environ["HOME"],
        capture_output=True,
        text=True,
        check=False,
        timeout=_MAX_SECONDS,
        **identity,
    )  # type: ignore[call-overload]
    assert done.returncode == 0, f"rabbitmqctl {arguments[0]}: {(done.stderr or done.stdout)[-200:]}"
    return str(done.stdout)


def _alarm(name: str, arguments: tuple[str, ...], scene: Scene) -> None:
    """Set a limit that is passed already, and wait for the alarm."""
    _control(scene, *arguments)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while "resource_limit" not in _control(scene, "eval", "rabbit_alarm:get_alarms()."):
        if time.monotonic() > deadline:
            raise MetNothing(f"no alarm after {name}")
        time.sleep(0.2)


def _no_alarm(arguments: tuple[str, ...], scene: Scene) -> None:
    _control(scene, *arguments)


def _time_consumers_out(name: str, scene: Scene) -> None:
    """Let the broker give consumers a second and a half to acknowledge, while no batch can be committed."""
    scene.marks[name] = scene.server("rabbitmq").log.stat().st_size
    _set_timeout(scene, consumer_ms=1_500, tick_ms=500)
    hold_lock(name, "event_keys", scene)


def _no_time_out(name: str, scene: Scene) -> None:
    release(name, scene)
    _set_timeout(scene, consumer_ms=1_800_000, tick_ms=60_000)
    with scene.server("rabbitmq").log.open(errors="replace") as log:
        log.seek(scene.marks.pop(name, 0))
        if "has timed out" not in log.read():
            raise MetNothing("no consumer was timed out")


def _set_timeout(scene: Scene, *, consumer_ms: int, tick_ms: int) -> None:
    settings = {"consumer_timeout": consumer_ms, "channel_tick_interval": tick_ms}
    words = ", ".join(f"application:set_env(rabbit, {key}, {value})" for key, value in settings.items())
    _control(scene, "eval", f"{words}.")
    scene.proxies["rabbitmq"].reset_connections()  # a channel reads both when it is opened


def _delete_queue(name: str, scene: Scene) -> None:
    """Delete the queue of events while it is empty, and publish at once.

    What a queue holds is gone with it, so nothing may be in it that was confirmed. What is published until an
    ingestor has declared it again is returned to its publisher as unroutable, and sent again.
    """
    with ExitStack() as publishers:
        for lock in scene.publishers:
            if not lock.acquire(timeout=_PATIENCE_SECONDS):
                raise MetNothing("a publisher is busy")
            publishers.callback(lock.release)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while _messages(scene):
            if time.monotonic() > deadline:
                raise MetNothing("the queue does not become empty")
            time.sleep(0.2)
        connection = pika.BlockingConnection(pika.URLParameters(scene.broker_url))
        try:
            connection.channel().queue_delete(scene.queue)
        finally:
            connection.close()


def _messages(scene: Scene) -> int:
    """Return how many messages the queue has, those in delivery included."""
    vhost = urlsplit(scene.broker_url).path.removeprefix("/").replace("%2F", "/")
    for line in _control(scene, "list_queues", "-p", vhost, "name", "messages").splitlines():
        queue, _, count = line.rpartition("\t")
        if queue == scene.queue and count.isdigit():
            return int(count)
    return 1


def broker_faults() -> list[Fault]:
    """Return them all."""
    memory, disk = "rabbitmq.memory_alarm", "rabbitmq.disk_alarm"
    slow, deleted = "rabbitmq.consumer_timeout", "rabbitmq.queue_deleted"
    invariants = "I1 I3 I8"
    watermark = "set_vm_memory_high_watermark"
    return [
        Fault(
            memory,
            partial(_alarm, memory, (watermark, "absolute", "1MB")),
            partial(_no_alarm, (watermark, "0.4")),
            invariants,
            (3, 8),
            1,
        ),
        Fault(
            disk,
            partial(_alarm, disk, ("set_disk_free_limit", "100000GB")),
            partial(_no_alarm, ("set_disk_free_limit", "50MB")),
            invariants,
            (3, 8),
            1,
        ),
        Fault(slow, partial(_time_consumers_out, slow), partial(_no_time_out, slow), invariants, (4, 8), 1),
        Fault(deleted, partial(_delete_queue, deleted), nothing, "I1 I8", (0.5, 2), 1),
    ]
