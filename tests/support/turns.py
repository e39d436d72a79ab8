"""Lets a test have the machine to itself while other workers run theirs side by side.

A test marked `alone` measures time or loads the machine: it waits until the tests under way have ended, and
no other begins before it has. Two locked files do this. Whoever comes passes the gate first, so that a test
that waits for the machine is not overtaken for ever.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def turn(folder: Path, *, alone: bool) -> Iterator[None]:
    """Hold the machine: with the others, or alone."""
    with (folder / "gate").open("a") as gate, (folder / "machine").open("a") as machine:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(machine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield
