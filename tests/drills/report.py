"""What a run of drills prints at its end."""

from collections import Counter
from collections.abc import Sequence

from tests.drills.drill import Outcome
from tests.drills.verdict import Verdict


def table(outcomes: Sequence[Outcome]) -> str:
    """Write a line for each fault and plan."""
    lines = [f"{'fault':30} {'what happened':34} {'can break':22} {'invariants':12} recovered"]
    for outcome in outcomes:
        broken = " ".join(sorted({each.invariant for each in outcome.findings}))
        verdict = f"{broken} BROKE" if broken else "held"
        lines.append(
            f"{outcome.name:30} {outcome.happened:34} {outcome.can_break:22} {verdict:12}"
            f" {outcome.recovery_seconds:5.1f} s"
        )
        lines += [f"    {each}" for each in outcome.findings]
    return "\n".join(lines) + "\n"


def holdings(at_start: dict[str, tuple[float, int]], at_end: dict[str, tuple[float, int]]) -> str:
    """Write what each process held; most have been started again in between."""
    lines = ["memory, descriptors   at the start, at the end"]
    for slot, (memory_mb, descriptors) in at_end.items():
        before_mb, before = at_start[slot]
        lines.append(f"  {slot:19} {before_mb:.0f} MB, {before}; {memory_mb:.0f} MB, {descriptors}")
    return "\n".join(lines) + "\n"


def totals(verdict: Verdict, struck: Counter[str], outcomes: Sequence[Outcome], seconds: float) -> str:
    """Write what the whole run came to."""
    slowest = max(outcomes, key=lambda outcome: outcome.recovery_seconds)
    return f"""
ran for               {seconds / 60:.1f} minutes
faults                {struck.total():,}, of {len(struck)} kinds
events attempted      {verdict.attempted:,}, sent again {verdict.resent:,}
unconfirmed           {verdict.unconfirmed:,} messages, sent again
acknowledged          {verdict.acknowledged:,}
counted               {verdict.counted:,}
lost                  {verdict.count("lost"):,}
duplicated            {verdict.count("duplicated"):,}
unexpected            {verdict.count("unexpected"):,}
dead letters          {verdict.dead_letters:,}, innocent {verdict.count("innocent-dead-letter"):,}
answers               {verdict.answers:,}, refused {verdict.refused:,}, none {verdict.unanswered:,}
exports               {verdict.exports:,}
time to visible       median {verdict.median_visible:.2f} s, p95 {verdict.p95_visible:.2f} s, \
worst {verdict.worst_visible:.1f} s
seen by a client      median {verdict.median_seen:.2f} s, worst {verdict.worst_seen:.1f} s
downloads             {verdict.downloads:,}, changed on the way and noticed {verdict.mended:,}
slowest recovery      {slowest.recovery_seconds:.1f} s ({slowest.name})
"""
