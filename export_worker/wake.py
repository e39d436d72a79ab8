"""Wakes the threads that wait for work."""

import threading


class Wake:
    """A bell. Who read `rings` before looking for work misses no ring that came while it looked."""

    def __init__(self) -> None:
        self._rung = threading.Condition()
        self.rings = 0

    def ring(self) -> None:
        """Wake everybody."""
        with self._rung:
            self.rings += 1
            self._rung.notify_all()

    def wait(self, seen: int, seconds: float) -> None:
        """Sleep until a ring after the one that was seen, or for this long."""
        with self._rung:
            self._rung.wait_for(lambda: self.rings != seen, seconds)
