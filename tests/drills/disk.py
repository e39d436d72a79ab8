"""A small disk for PostgreSQL, in memory, that can be made full at any moment and given room again."""

import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

_SIZE_BYTES = 4 * 1024**3
"""More than a run of an hour writes. Only what is used of it takes memory."""

_ATTEMPTS = 20
_STEP_BYTES = 64 * 1024


class SmallDisk:
    """A context manager that mounts it. Raises OSError where this machine does not let us."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._run("mount", "-t", "tmpfs", "-o", f"size={_SIZE_BYTES},mode=711", "tmpfs", str(self._folder))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run("umount", "--lazy", str(self._folder))

    def fill(self) -> None:
        """Leave no free byte: the disk becomes as small as what is on it."""
        for attempt in range(_ATTEMPTS):
            with suppress(OSError):  # more is on it by now
                self._resize(shutil.disk_usage(self._folder).used + attempt * _STEP_BYTES)
                return
        raise OSError("the disk fills faster than it becomes smaller")

    def empty(self) -> None:
        """Give it room again."""
        self._resize(_SIZE_BYTES)

    def _resize(self, size_bytes: int) -> None:
        self._run("mount", "-o", f"remount,size={size_bytes}", str(self._folder))

    @staticmethod
    def _run(*command: str) -> None:
        try:
            subprocess.run(command, capture_output=True, text=True, check=True)
        except subprocess.CalledProcessError as error:
            raise OSError(error.stderr.strip()) from error
