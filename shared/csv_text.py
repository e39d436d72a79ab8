"""CSV, where it is made in Python: the writer, and the rule for texts that a spreadsheet would run.

Lines end with a line feed, as those do that PostgreSQL's COPY writes.
"""

import csv
import re
from collections.abc import Iterable

_END = "\r\n"

# analytics.spreadsheet_text says the same in SQL, for files that PostgreSQL writes (docs/decisions/0020).
# tests/integration/test_csv_text.py compares the two.
_FORMULA = re.compile(
    r"[\t\n\r]|[\u0001-\u0020\u007f-\u00a0\u00ad\u034f\u061c\u1680\u180e\u2000-\u200f\u2028-\u202f"
    r"\u205f-\u206f\u3000\ufeff]*[-=+@\u2212\ufe62\ufe63\ufe66\ufe6b\uff0b\uff0d\uff1d\uff20]"
)


def spreadsheet_text(text: str) -> str:
    """Put an apostrophe before a text that a spreadsheet would run as a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


class CsvLines:
    """Gathers lines of CSV until they are taken as bytes."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        # csv quotes a cell with a carriage return only where lines end with one, and readers need the quotes.
        # So lines are made with one, and lose it in `write`, which csv calls once for each line.
        self._writer = csv.writer(self, lineterminator=_END)

    def add(self, cells: Iterable[object]) -> None:
        """Add a line; None is an empty cell."""
        self._writer.writerow(cells)

    def write(self, line: str) -> None:
        """Take a line from csv."""
        self._lines.append(line.removesuffix(_END))

    def take(self) -> bytes:
        """Return the lines since the last time, in UTF-8; b"" where there are none."""
        if not self._lines:
            return b""
        self._lines.append("")
        taken = "\n".join(self._lines).encode()
        self._lines.clear()
        return taken
