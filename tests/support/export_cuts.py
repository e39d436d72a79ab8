"""Exports by any cut as a client makes them: asked for over REST, fetched by the link to the file."""

import csv
import hashlib
import io
import json
from decimal import Decimal
from typing import Any

import urllib3
from falcon import testing

from deploy.local.traffic import org
from tests.support.exports import Exports
from tests.support.gateway_app import ADMIN, PREFIX, Gateway, read

FIGURES = ("invocations", "errors", "input_tokens", "output_tokens", "cost_estimate_cents")
MEMBERS = {
    "invocations": "invocations",
    "errors": "errors",
    "input_tokens": "inputTokens",
    "output_tokens": "outputTokens",
    "cost_estimate_cents": "costEstimateCents",
}
"""What the columns of figures are called in JSON."""

Line = dict[str, str]


class File:
    """A delivered file, with all that its job says of it checked."""

    def __init__(self, job: Any, data: bytes) -> None:
        self.job = job
        self.text = data.decode()
        assert hashlib.sha256(data).hexdigest() == job["checksum"]
        assert len(data) == job["sizeBytes"]
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
