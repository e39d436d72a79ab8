"""Wakes the threads that wait for work."""

import threading


class Wakeups:
    """Counts notifications. Who reads `count` before looking for work misses none that comes meanwhile."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.count = 0

    def notify(self) -> None:
        """Wake every thread that waits."""
        with self._changed:
            self.count += 1
            self._changed.notify_all()

    def wait(self, seen: int, seconds: float) -> None:
        """Sleep until a notification after the one that was seen, or for this long."""
        with self._changed:
            self._changed.wait_for(lambda: self.count != seen, seconds)
