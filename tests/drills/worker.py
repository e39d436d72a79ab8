"""What does one thing again and again beside a drill's faults."""

import threading

from tests.drills.history import History
from tests.drills.scene import Scene


class Worker(threading.Thread):
    """Does one thing again and again, unless it is paused, until it is stopped."""

    def __init__(self, name: str, scene: Scene, history: History, every_seconds: float) -> None:
        super().__init__(name=name)
        self.scene, self.history = scene, history
        self.stopping = threading.Event()
        self.paused = threading.Event()
        self.resting = threading.Event()
        """Set while it is paused and has ended what it began."""
        self._every_seconds = every_seconds

    def run(self) -> None:
        while not self.stopping.wait(self._every_seconds):
            if self.paused.is_set():
                self.resting.set()
                continue
            self.resting.clear()
            self.once()
        self.resting.set()

    def once(self) -> None:
        """Do it once."""
        raise NotImplementedError
