"""What a history came to, and what is wrong with it."""

from collections.abc import Iterable
from dataclasses import dataclass, field

_MAX_EXAMPLES = 3


@dataclass(frozen=True)
class Finding:
    """A broken invariant: its number, one word for what is wrong, how often, and examples."""

    invariant: str
    kind: str
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.invariant} {self.kind}: {self.count:,}, e.g. {'; '.join(self.examples)}"


@dataclass
class Verdict:
    """What a history came to. Times in seconds."""

    attempted: int = 0
    acknowledged: int = 0
    counted: int = 0
    recovered: int = 0
    resent: int = 0
    unconfirmed: int = 0
    """Messages whose confirmation never came; they were sent again."""
    dead_letters: int = 0
    answers: int = 0
    refused: int = 0
    unanswered: int = 0
    exports: int = 0
    median_visible: float = 0.0
    p95_visible: float = 0.0
    worst_visible: float = 0.0
    median_seen: float = 0.0
    worst_seen: float = 0.0
    """From the publication of a marked event to the end of the first answer that shows it."""
    downloads: int = 0
    mended: int = 0
    """Downloads that were not whole while a fault changed bytes; their checksum says so."""
    findings: list[Finding] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether every invariant held."""
        return not self.findings

    def count(self, kind: str) -> int:
        """Return how often something was wrong, 0 if never."""
        return sum(finding.count for finding in self.findings if finding.kind == kind)

    def found(self, invariant: str, kind: str, what: Iterable[object]) -> None:
        """Note what is wrong, if anything is."""
        if wrong := [str(each) for each in what]:
            self.findings.append(Finding(invariant, kind, len(wrong), tuple(wrong[:_MAX_EXAMPLES])))
