"""Faults that every server has: killed, frozen, a network that is slow, silent, cut or half open."""

import signal
from functools import partial

from tests.drills.fault import Fault, nothing
from tests.drills.scene import Scene


def _signal(target: str, number: signal.Signals, scene: Scene) -> None:
    scene.server(target).signal_server(number)


def _kill(target: str, scene: Scene) -> None:
    scene.server(target).kill()


def _start(target: str, scene: Scene) -> None:
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


def _halve(target: str, scene: Scene) -> None:
    scene.proxies[target].halve_connections()


def _end_halves(target: str, scene: Scene) -> None:
    scene.proxies[target].end_halves()


def _limit_data(target: str, size_bytes: int | None, scene: Scene) -> None:
    scene.proxies[target].cut_replies_after(size_bytes)


def lose_reply(marker: bytes | None, scene: Scene) -> None:
    """Lose what PostgreSQL answers to a statement."""
    scene.proxies["postgresql"].lose_reply_to = marker


def _pass(target: str, scene: Scene) -> None:
    """Pass bytes again; connections that swallowed some are of no use any more."""
    scene.proxies[target].mode = "pass"
    scene.proxies[target].reset_connections()


def _of_server(target: str, invariants: str, limit_bytes: int) -> list[Fault]:
    stop, go = partial(_signal, target, signal.SIGSTOP), partial(_signal, target, signal.SIGCONT)
    slow, quick = partial(_latency, target, 0.2), partial(_latency, target, 0.0)
    again, again_whole = partial(_pass, target), partial(_limit_data, target, None)
    kill, start = partial(_kill, target), partial(_start, target)
    half, whole = partial(_halve, target), partial(_end_halves, target)
    return [
        Fault(f"{target}.kill", kill, start, invariants, (0.5, 3), 1),
        Fault(f"{target}.pause", stop, go, invariants, (2, 8)),
        Fault(f"{target}.latency", slow, quick, invariants, (2, 8)),
        Fault(f"{target}.timeout", partial(_timeout, target), again, invariants, (2, 8)),
        Fault(f"{target}.down", partial(_down, target), again, invariants, (1, 5)),
        Fault(f"{target}.reset_peer", partial(_reset, target), nothing, invariants, (0.1, 0.2), 4),
        Fault(f"{target}.half_open", half, whole, invariants, (2, 8)),
        Fault(
            f"{target}.limit_data", partial(_limit_data, target, limit_bytes), again_whole, invariants, (1, 3)
        ),
    ]


def server_faults() -> list[Fault]:
    """Return them for each of the four servers."""
    return [
        *_of_server("postgresql", "I1 I2 I3 I4 I7 I9", 50_000),
        Fault(
            "postgresql.commit_reply_lost",
            partial(lose_reply, b"COMMIT;"),
            partial(lose_reply, None),
            "I1 I2 I4 I9",
            (1, 3),
            4,
        ),
        *_of_server("rabbitmq", "I1 I3 I8", 5_000),
        *_of_server("redis", "I7", 2_000),
        *_of_server("s3", "I4 I5 I7", 2_000),
    ]
