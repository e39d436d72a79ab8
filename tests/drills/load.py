"""The load of a drill: publishers, and whoever asks."""

import time
from collections.abc import Callable

from tests.drills.asking import Exporter, Marker, Reader, Scraper
from tests.drills.history import History
from tests.drills.publishing import Producer
from tests.drills.scene import Scene
from tests.drills.worker import Worker

_PATIENCE_SECONDS = 60


class Load:
    """All of it together."""

    def __init__(self, scene: Scene, history: History) -> None:
        self.producers = [Producer(scene, history, seed) for seed in (1, 2)]
        marker = Marker(scene, history)
        self._publishers = [*self.producers, marker]
        self.exporter = Exporter(scene, history)
        others = (Reader(scene, history), Scraper(scene, history))
        self.workers: list[Worker] = [*self._publishers, *others, self.exporter]

    def start(self) -> None:
        """Start to publish and to ask."""
        for worker in self.workers:
            worker.start()

    def pause(self, meanwhile: Callable[[], object] = bool) -> None:
        """Let each end what it began, and wait for that. meanwhile: done now and then while this waits."""
        for worker in self.workers:
            worker.resting.clear()
            worker.paused.set()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        for worker in self.workers:
            while not worker.resting.wait(0.2):
                assert time.monotonic() < deadline, f"{worker.name} does not come to rest"
                meanwhile()

    def resume(self) -> None:
        """Go on."""
        for worker in self.workers:
            worker.paused.clear()

    def stop(self) -> None:
        """End it."""
        for worker in self.workers:
            worker.stopping.set()
        for worker in self.workers:
            worker.join(_PATIENCE_SECONDS)

    @property
    def confirmed(self) -> int:
        """How many events the broker has confirmed."""
        return len(set().union(*(producer.confirmed for producer in self._publishers)))
