"""What the processes' logs must not hold: secrets, signed links, and what only one organisation may see."""

from collections.abc import Mapping
from pathlib import Path


class Logs:
    """The logs of a folder. forbidden: texts by what they are."""

    def __init__(self, folder: Path, forbidden: Mapping[str, str]) -> None:
        self._folder = folder
        self._forbidden = {what: text.encode() for what, text in forbidden.items()}
        self._read: dict[Path, int] = {}
        self._leaks: list[str] = []

    def leaks(self) -> list[str]:
        """Read on, and return what was found so far: what it is, and in which log."""
        for path in sorted(self._folder.glob("*.log")):
            with path.open("rb") as log:
                log.seek(self._read.get(path, 0))
                text = log.read()
            whole = text.rfind(b"\n") + 1  # the last line may not be whole yet
            self._read[path] = self._read.get(path, 0) + whole
            self._leaks += [
                f"{what} in {path.name}" for what, bad in self._forbidden.items() if bad in text[:whole]
            ]
        return self._leaks
