"""One line of the benchmark table."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class BenchRow:
    """A figure beside the peer it was measured against in the same run, and the limit on their ratio.

    measured, peer: in the unit; ratio is measured / peer. limit_is "least" or "most" is on which
    side of the limit the ratio belongs.
    """

    name: str
    unit: str
    measured: float
    peer_name: str
    peer: float
    limit: float
    limit_is: Literal["least", "most"]
    note: str = ""

    @property
    def ratio(self) -> float:
        """Return measured / peer."""
        return self.measured / self.peer

    @property
    def holds(self) -> bool:
        """Return whether the ratio is on the right side of its limit."""
        return self.ratio >= self.limit if self.limit_is == "least" else self.ratio <= self.limit
