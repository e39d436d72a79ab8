"""A drill: faults strike while events flow and people read; afterwards all has to be as it was published."""

import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import psycopg2
import urllib3
from minio.error import MinioException
from pika.exceptions import AMQPError

from deploy.local.machine import StackError
from deploy.local.traffic import org
from shared.errors import AnalyticsError
from tests.drills.check_answers import RECOVERY_SECONDS
from tests.drills.checker import Parsed, check
from tests.drills.fault import Fault, MetNothing
from tests.drills.faults import FAULTS
from tests.drills.found import Found
from tests.drills.history import History
from tests.drills.load import Load
from tests.drills.plan import Plan
from tests.drills.readout import read_out, wait_for_exports
from tests.drills.scene import ORGS, Scene
from tests.drills.verdict import Finding, Verdict

_POLL_SECONDS = 0.2
_MAX_WHY = 300
_MAX_LOOKS = 5
"""What the judge has found wrong so often stays wrong."""
_MAX_PROBLEM = 100
_NOT_YET = (
    AssertionError,
    AnalyticsError,
    AMQPError,
    MinioException,
    OSError,
    StackError,
    psycopg2.Error,
    subprocess.SubprocessError,
    urllib3.exceptions.HTTPError,
)
"""What reading a drill's state raises while something is still away."""


@dataclass(frozen=True)
class Outcome:
    """What came of a fault or a plan: in words, what it broke, and the seconds until all was well again."""

    name: str
    happened: str
    can_break: str
    findings: list[Finding]
    recovery_seconds: float


class Drill:
    """Runs faults on a scene under load."""

    def __init__(
        self,
        scene: Scene,
        history: History,
        write_line: Callable[[str], None],
        *,
        patience_seconds: float = RECOVERY_SECONDS,
    ) -> None:
        self.scene = scene
        self.history = history
        self.load = Load(scene, history)
        self.verdict = Verdict()
        self._found = Found()
        self._parsed: Parsed = {}
        self._final_jobs: dict[str, str] = {}
        self.struck: Counter[str] = Counter()
        self._write_line = write_line
        self._patience_seconds = patience_seconds
        self._known: set[tuple[str, str]] = set()
        self._locks = {fault.target: threading.Lock() for fault in FAULTS.values()}
        self._ended: list[str] = []

    def strike(self, fault: Fault, seconds: float) -> str:
        """Let a fault strike and end; return what happened. One at a time for each target."""
        with self._locks[fault.target]:
            number = self.history.invoke("fault", fault.name, target=fault.target, seconds=seconds)
            problem = ""
            before = self._disturbed(fault)
            try:
                fault.begin(self.scene)
                time.sleep(seconds)
            except MetNothing as why:
                problem = f"not begun: {why}"
            except Exception as error:  # noqa: BLE001  another fault is in its way; what has begun is ended
                problem = f"not begun: {type(error).__name__}: {str(error)[:_MAX_PROBLEM]}"
            else:
                if fault.is_of_network and self._disturbed(fault) == before:
                    problem = f"met nothing in {seconds:.1f} s"
            try:
                fault.end(self.scene)
            except MetNothing as why:
                problem = problem or str(why)
            except Exception as error:  # noqa: BLE001  it is a finding, whatever it is
                self.history.end("fault", "fail", number, why=f"{type(error).__name__}: {error}"[:_MAX_WHY])
                return str(error)[:_MAX_PROBLEM]
            self.history.end("fault", "ok", number, problem=problem)
            if not problem:
                self.struck[fault.name] += 1
            return problem or f"held {seconds:.1f} s"

    def _disturbed(self, fault: Fault) -> int:
        return self.scene.proxies[fault.target].disturbed if fault.is_of_network else 0

    def run_fault(self, fault: Fault, seconds: float) -> Outcome:
        """Run one fault, wait for recovery, and judge."""
        self.load.resume()
        time.sleep(0.5)
        happened = []
        thread = threading.Thread(target=lambda: happened.append(self.strike(fault, seconds)))
        thread.start()
        self._join(thread)
        return self.outcome(fault.name, happened[0] if happened else "it failed", fault.can_break)

    def run_plan(self, plan: Plan, name: str) -> Outcome:
        """Run a plan, wait for recovery, and judge."""
        self.load.resume()
        began = time.monotonic()
        threads = []
        before = self.struck.total()
        for step in plan.steps:
            while time.monotonic() < began + step.at:
                time.sleep(min(_POLL_SECONDS, max(0.0, began + step.at - time.monotonic())))
                self._launch_ended()
            self._write_line(f"    {step.at:6.1f} s  {step.fault} for {step.seconds:.1f} s")
            thread = threading.Thread(target=self.strike, args=(FAULTS[step.fault], step.seconds))
            thread.start()
            threads.append(thread)
        for thread in threads:
            self._join(thread)
        happened = f"{self.struck.total() - before} faults in {time.monotonic() - began:.0f} s"
        return self.outcome(name, happened, "I1 to I9")

    def settle(self, by: str) -> float:
        """Wait until all is ready, counted and exported, and judge; return the seconds it took.

        What the judge itself takes is not among them.
        """
        began = time.monotonic()
        judging, looks = 0.0, 0
        self.load.pause(self._launch_ended)
        why = "nothing was read"
        seconds = time.monotonic() - began
        while (left := self._patience_seconds + began + judging - time.monotonic()) > 0:
            self._launch_ended()
            try:
                why = self._what_waits() or self._export_all(left)
                seconds = time.monotonic() - began - judging
                if not why:
                    looks += 1
                    self.note_holdings()
                    judged = time.monotonic()
                    try:
                        why = self._judge()
                    finally:
                        judging += time.monotonic() - judged
            except _NOT_YET as error:
                why = f"{type(error).__name__}: {error}".strip()
            if not why or looks >= _MAX_LOOKS:
                break
            time.sleep(_POLL_SECONDS)
        else:
            seconds = time.monotonic() - began - judging
            with suppress(*_NOT_YET):  # what is wrong shall be named, however late
                why = self._judge() or why
        number = self.history.invoke("recovery", by)
        self.history.end("recovery", "fail" if why else "ok", number, seconds=round(seconds, 2), why=why)
        if why:
            self._write_line(f"    not recovered: {why[:_MAX_WHY]}")
            if not self._new_findings():  # nothing that was read tells of it
                self._note_recovery()
        return seconds

    def note_holdings(self) -> None:
        """Note what each process holds at a quiet moment."""
        number = self.history.invoke("holdings", "drill")
        self.history.end("holdings", "ok", number, held=self.scene.holdings())

    def outcome(self, name: str, happened: str, can_break: str) -> Outcome:
        """Wait for recovery, and judge."""
        seconds = self.settle(name)
        self._note_recovery()
        new = self._new_findings()
        self._known |= {(each.invariant, each.kind) for each in new}
        if self._ended:
            happened += f"; ended by themselves: {', '.join(self._ended)}"
            self._ended = []
        return Outcome(name, happened, can_break, new, seconds)

    def _note_recovery(self) -> None:
        """Make a finding of the last recovery if it failed."""
        if self.history.records[-1]["state"] != "ok":
            self.verdict.findings = check(self.history.records, self._found, self._parsed).findings

    def _what_waits(self) -> str:
        """Say what is not there yet; empty when nothing is."""
        if unready := self.scene.unready():
            return f"not ready: {', '.join(unready)}"
        with self.scene.observer() as observer:
            stored, queued = observer.ingestion()["inserted"], observer.queued()
            [(pending,)] = observer.rows(
                "SELECT count(*) FROM analytics.ingestion_batches WHERE rolled_up_at IS NULL"
            )
        if stored < self.load.confirmed or queued or pending:
            return f"stored {stored} of {self.load.confirmed}, queued {queued}, pending batches {pending}"
        return ""

    def _export_all(self, seconds: float) -> str:
        """Export every organisation's window and wait until no job is under way; say what is refused."""
        jobs = {org(number): self.load.exporter.export(org(number)) for number in range(ORGS)}
        if None in jobs.values():
            return "an export is refused"
        self._final_jobs = {org_id: job for org_id, job in jobs.items() if job}
        wait_for_exports(self.scene, seconds)
        return ""

    def _judge(self) -> str:
        """Read all and check it; say what is wrong that was not before."""
        self._found = read_out(self.scene, self._final_jobs)
        self.verdict = check(self.history.records, self._found, self._parsed)
        return "; ".join(str(each) for each in self._new_findings())

    def _new_findings(self) -> list[Finding]:
        return [each for each in self.verdict.findings if (each.invariant, each.kind) not in self._known]

    def _join(self, thread: threading.Thread) -> None:
        while thread.is_alive():
            thread.join(_POLL_SECONDS)
            self._launch_ended()

    def _launch_ended(self) -> None:
        for slot, code in self.scene.launch_ended():
            self._write_line(f"    {slot} ended by itself with {code}, started again")
            self._ended.append(f"{slot} ({code})")
