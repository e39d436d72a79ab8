"""Exports by any cut as a client makes them: asked for over REST, fetched by the link to the file."""

import csv
import gzip
import hashlib
import io
import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import urllib3
from falcon import testing

from deploy.local.traffic import org
from tests.support.exports import Exports, plain
from tests.support.gateway_app import ADMIN, PREFIX, Gateway, read
from tests.support.oracle import MEMBERS as FIELDS
from tests.support.oracle import Answer, Event, Question, Sums, shown, start_of
from tests.support.questions import DAYS_ONLY, FIRST, MODELS, NIGHTS, ZONES

FIGURES = ("invocations", "errors", "input_tokens", "output_tokens", "cost_estimate_cents")
MEMBERS = {
    "invocations": "invocations",
    "errors": "errors",
    "input_tokens": "inputTokens",
    "output_tokens": "outputTokens",
    "cost_estimate_cents": "costEstimateCents",
}
"""What the columns of figures are called in JSON."""
GRAINS = {"hourly": "hour", "daily": "day", "monthly": "day"}
"""The granularity of the question about usage that has the same buckets; a month is the sum of its days."""

Line = dict[str, str]


class File:
    """A delivered file, with all that its job says of it checked."""

    def __init__(self, job: Any, data: bytes) -> None:
        self.job = job
        assert len(data) == job["sizeBytes"]
        text = gzip.decompress(data) if job["compression"] == "gzip" else data
        assert hashlib.sha256(text).hexdigest() == job["checksum"]
        self.text = text.decode()
        header, *lines = csv.reader(io.StringIO(self.text, newline=""))
        self.columns = header
        self.lines: list[Line] = [dict(zip(header, line, strict=True)) for line in lines]
        assert len(lines) == job["rowCount"] == job["rowsDone"]

    def totals(self) -> dict[str, Decimal]:
        """Return the sums of all lines by the names of usage's totals."""
        return {
            MEMBERS[name]: sum((Decimal(line[name]) for line in self.lines), Decimal(0)) for name in FIGURES
        }


class ExportClient:
    """Asks one gateway for exports of one organisation."""

    def __init__(self, gateway: Gateway, exports: Exports, org_id: str = org(0)) -> None:
        self.gateway = gateway
        self.org_id = org_id
        self._exports = exports
        self._jobs = f"{PREFIX}/orgs/{org_id}/exports"

    def post(self, *, key: str | None = None, **body: Any) -> testing.Result:
        """Ask for an export."""
        headers = {"Idempotency-Key": key} if key is not None else {}
        return self.gateway.call("POST", self._jobs, ADMIN, body=json.dumps(body).encode(), headers=headers)

    def create(self, **body: Any) -> Any:
        """Return a job that must be accepted."""
        answer = self.post(**body)
        assert answer.status_code == 202, answer.text
        return read(answer)

    def job(self, job_id: str) -> Any:
        """Return a job as it is now."""
        return read(self.gateway.call("GET", f"{self._jobs}/{job_id}", ADMIN))

    def finished(self, job: Any) -> Any:
        """Return a job when it has succeeded or failed."""
        self._exports.wait({"org_id": self.org_id, "job_id": job["jobId"]}, "succeeded", "failed")
        return self.job(job["jobId"])

    def file(self, job: Any) -> File:
        """Return a job's file once it is delivered."""
        job = self.finished(job)
        assert job["status"] == "succeeded", job
        link = self.gateway.call("GET", f"{self._jobs}/{job['jobId']}/download", ADMIN)
        assert link.status_code == 302, link.text
        answer = urllib3.request("GET", link.headers["location"], retries=False, timeout=20)
        assert answer.status == 200, answer.data
        return File(job, answer.data)

    def deliver(self, **body: Any) -> File:
        """Return the file of a request; a worker must run."""
        return self.file(self.create(**body))

    def usage(self, **parameters: str) -> Any:
        """Return the usage answer of an organisation in JSON."""
        return self.gateway.get(f"/orgs/{self.org_id}/usage", ADMIN, **parameters)


def an_export(rng: random.Random) -> dict[str, Any]:
    """Return the body of a request that has an answer."""
    dimension = rng.choice((None, *FIELDS, "metadata.region"))
    granularity = rng.choice(tuple(GRAINS))
    zone = rng.choice(ZONES)
    if dimension in DAYS_ONLY:
        zone, granularity = "UTC", rng.choice(("daily", "monthly"))
    span = timedelta(minutes=rng.randrange(1, 31 * 24 * 60 + 1))
    middle = (
        datetime.fromisoformat(rng.choice(NIGHTS))
        if rng.random() < 0.5
        else FIRST + timedelta(days=70) * rng.random()
    )
    start = middle - span * rng.random()
    names = [name for name in ("model", dimension) if name and rng.random() < 0.8]
    body = {
        "timeRange": {"start": start.isoformat(), "end": (start + span).isoformat()},
        "granularity": granularity,
        "groupBy": ",".join(names) or "none",
        "timeZone": zone,
    }
    return body | ({"models": rng.sample((*MODELS, "nobody's"), 3)} if rng.random() < 0.3 else {})


def check_file(file: File, body: Mapping[str, Any], events: Sequence[Event], org_id: str = org(0)) -> int:
    """Compare a file with the oracle's answer; return how many lines it has."""
    asked = {
        **body["timeRange"],
        "granularity": GRAINS[body["granularity"]],
        "groupBy": body["groupBy"],
        "timeZone": body["timeZone"],
        **({"modelId": body["models"]} if "models" in body else {}),
    }
    question = Question(asked, org_id)
    answer = Answer(question, events)
    said = file.job["timeRange"]
    assert said == {"start": shown(answer.start, question), "end": shown(answer.end, question)}, body
    points: defaultdict[tuple[datetime, str, bool, str], Sums] = defaultdict(Sums)
    for (text, _, model, value, _), sums in answer.points.items():
        at = datetime.fromisoformat(text)
        if body["granularity"] == "monthly":
            at = start_of(at, "month", question.zone)
        points[at, model or "", value is None, value or ""].events += sums.events
    wanted = [
        [
            shown(at, question),
            org_id,
            *([cell(model)] if question.by_model else []),
            *([cell(value)] if question.dimension else []),
            *(plain(sums.usage()[MEMBERS[name]] + 0) for name in FIGURES),
        ]
        for (at, model, _, value), sums in sorted(points.items(), key=lambda point: point[0])
    ]
    assert [list(line.values()) for line in file.lines] == wanted, body
    return len(wanted)


def cell(text: str) -> str:
    """Return a text as it must stand in a file."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
