"""Mutants: the fleet with one deliberate mistake. A drill that does not catch each of them proves nothing."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.local.checkout import ROOT
from deploy.local.stack import LocalStack, quiet
from tests.drills.drill import Drill
from tests.drills.faults import FAULTS
from tests.drills.history import History
from tests.drills.scene import Scene

_CODE = ("shared", "gateway", "ingestor", "rollup_worker", "export_worker", "sql")
_LOAD_SECONDS = 3.0
_PATIENCE_SECONDS = 5.0


@dataclass(frozen=True)
class Mutant:
    """A mistake: what is replaced by what in which files, and the finding that must come of it.

    fault: the one that shows it, where load alone does not, and for how many seconds. changed_share: of the
    messages, how many bring known events with another content; recent_events: of how many events, the newest,
    these are taken.
    """

    name: str
    patches: tuple[tuple[str, str, str], ...]
    caught_as: str
    fault: str | None = None
    fault_seconds: float = 0.2
    changed_share: float = 0.03
    recent_events: int = 200
    load_seconds: float = _LOAD_SECONDS


_CLOSE_OFTEN = (
    "rollup_worker/worker.py",
    "_KEY_PARTS_EVERY = timedelta(seconds=2)\n",
    "_KEY_PARTS_EVERY = timedelta(seconds=0.3)\n",
)
"""No mistake: it lets parts of the ledger be closed within the moments that a mutant's load takes."""

MUTANTS = (
    Mutant(
        "acknowledge before commit",
        (
            (
                "ingestor/settlement.py",
                "        self._order.add(tags)\n",
                "        self._order.add(tags)\n        self._channel.basic_ack(tags[-1], multiple=True)\n",
            ),
            (
                "ingestor/settlement.py",
                "        for tag, up_to in acks:\n",
                "        for tag, up_to in ():\n",
            ),
        ),
        "lost",
        fault="ingestor.kill_before_commit",
    ),
    Mutant(
        "drop one dedupe key of each batch",
        (
            (
                "ingestor/key_rows.py",
                "    order = keys.argsort()",
                "    order = keys.argsort()[1:]",
            ),
        ),
        "duplicated",
        changed_share=0.4,
    ),
    Mutant(
        "let filters of closed parts forget every other key",
        (
            (
                "shared/key_filter.py",
                "        masks, at, words = Probe(hashes).masks, rows",
                "        hashes, rows = hashes[::2], rows[::2]\n"
                "        masks, at, words = Probe(hashes).masks, rows",
            ),
            _CLOSE_OFTEN,
        ),
        "duplicated",
        changed_share=0.4,
        recent_events=2_000,
        load_seconds=15.0,
    ),
    Mutant(
        "trust an old list of closed parts",
        (
            (
                "ingestor/store.py",
                "            if numbers != [part.number for part in self._parts]:\n",
                "            if numbers is None:\n",
            ),
            _CLOSE_OFTEN,
        ),
        "duplicated",
        changed_share=0.4,
        recent_events=2_000,
        load_seconds=15.0,
    ),
    Mutant(
        "skip one mark of the rollups",
        (
            (
                "sql/rollups.sql",
                "with_dimensions = true\nWHERE batch_id = ANY(%(batch_ids)s);",
                "with_dimensions = true\nWHERE batch_id = ANY(%(batch_ids)s) AND (mod(batch_id, 5) > 0\n"
                "    OR EXISTS (SELECT FROM analytics.ingestion_batches AS later\n"
                "    WHERE later.batch_id > ingestion_batches.batch_id AND later.rolled_up_at IS NOT NULL));",
            ),
        ),
        "sums-differ",
    ),
    Mutant(
        "lose the audit row of a usage answer",
        (
            (
                "gateway/access/audit.py",
                "    if not is_audited(req):\n",
                '    if not is_audited(req) or req.path.endswith("/usage"):\n',
            ),
        ),
        "unaudited",
    ),
    Mutant(
        "send no digest of a file's bytes",
        (
            (
                "shared/s3.py",
                '        if method == "PUT" and isinstance(body, bytes):\n',
                "        if not method:\n",
            ),
        ),
        "file-differs",
        fault="s3.corrupt_upload",
        fault_seconds=6.0,
    ),
    Mutant(
        "log the link of a download",
        (
            (
                "gateway/resources/exports.py",
                'if job["compress"] else "text/csv",\n        )\n',
                'if job["compress"] else "text/csv",\n        )\n        print(resp.location)\n',
            ),
        ),
        "leaked",
        fault="redis.latency",
        fault_seconds=6.0,
    ),
)


def run_mutants(stack: LocalStack, write_line: Callable[[str], None]) -> Iterator[tuple[Mutant, str]]:
    """Yield each mutant with the findings of its drill in words."""
    for number, mutant in enumerate(MUTANTS):
        write_line(f"mutant: {mutant.name}")
        folder = Path(tempfile.mkdtemp(prefix="analytics-mutant-"))
        history = History(folder / "history.jsonl")
        try:
            with Scene(stack, folder, f"mutant{number}", _patched(mutant, folder / "code")) as scene:
                drill = Drill(scene, history, quiet, patience_seconds=_PATIENCE_SECONDS)
                for producer in drill.load.producers:
                    producer.changed_share = mutant.changed_share
                    producer.recent_events = mutant.recent_events
                drill.load.start()
                try:
                    time.sleep(mutant.load_seconds)
                    if mutant.fault:
                        drill.strike(FAULTS[mutant.fault], mutant.fault_seconds)
                    drill.settle(mutant.name)
                finally:
                    drill.load.stop()
            kinds = {finding.kind for finding in drill.verdict.findings}
            yield mutant, ", ".join(sorted(kinds)) or "nothing"
        finally:
            history.close()
            shutil.rmtree(folder, ignore_errors=True)


def is_caught(mutant: Mutant, findings: str) -> bool:
    """Return whether the drill found what the mistake does."""
    return mutant.caught_as in findings.split(", ")


def _patched(mutant: Mutant, folder: Path) -> Path:
    """Copy the fleet's code and make the mistake. Raises AssertionError where the code has changed."""
    for name in _CODE:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)  # it has the version
    for name, old, new in mutant.patches:
        path = folder / name
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{mutant.name}: {name} has {text.count(old)} times {old!r}"
        path.write_text(text.replace(old, new), encoding="utf-8")
    return folder
