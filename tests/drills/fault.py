"""What a fault is: a name, what it hits, how it begins, how it ends, and what it can break."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from tests.drills.scene import Scene

_OF_NETWORK = {
    "latency", "timeout", "down", "reset_peer", "limit_data", "commit_reply_lost", "half_open", "refused",
    "corrupt_upload", "corrupt_download", "cut_upload",
}  # fmt: skip


class MetNothing(Exception):
    """The fault struck and nothing came in its way, so it shows nothing."""


@dataclass(frozen=True)
class Fault:
    """A fault. seconds: how long it is held, at least and at most; weight: its share of random plans.

    begin raises MetNothing where it cannot be had on this machine, end where nothing met it. end raises
    AssertionError where a promise is broken.
    """

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


def hold(name: str, scene: Scene) -> ExitStack:
    """Return what a fault puts into it, to be undone by release()."""
    held = scene.held[name] = ExitStack()
    return held


def release(name: str, scene: Scene) -> None:
    """Undo what a fault holds; nothing if it holds nothing."""
    scene.held.pop(name, ExitStack()).close()


def nothing(_: Scene) -> None:
    """There is nothing to end."""
