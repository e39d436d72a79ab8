"""What exports promise, whoever asks for them in whatever order."""

import json
import random
import uuid
from datetime import datetime
from typing import Any

import urllib3
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.support.access_table import CREATE, DOWNLOAD, READ
from tests.support.api_model import ApiModel, Job, keys, people, places, seeds
from tests.support.api_people import headers_of
from tests.support.export_cuts import GRAINS, File, an_export, check_file
from tests.support.gateway_app import PREFIX, read
from tests.support.oracle import Answer, Question, shown

_link = urllib3.PoolManager(retries=False, timeout=20)


class ExportRules(ApiModel):
    """Jobs: asked for, asked for again, listed, read and fetched."""

    @rule(who=people, place=places, rng=seeds, key=st.none() | keys, gzip=st.booleans(), odd=st.booleans())
    def create(
        self, who: str, place: int, *, rng: random.Random, key: str | None, gzip: bool, odd: bool
    ) -> None:
        """Ask for an export; the job repeats what was asked for, with the window as it was widened."""
        body = an_export(rng)
        asked = dict(body)
        if gzip:
            asked["compression"] = "gzip"
        if odd:  # what is the default may be left out, and the order of a groupBy is free
            for name, default in (("timeZone", "UTC"), ("groupBy", "model"), ("granularity", "daily")):
                if asked[name] == default:
                    del asked[name]
            if "," in asked.get("groupBy", ""):
                asked["groupBy"] = ",".join(reversed(asked["groupBy"].split(",")))
        known = self.by_key.get((self.orgs[place], who, key or ""))
        echo = self._echo(body, gzip=gzip, place=place)
        same = known is not None and all(known.document[name] == echo[name] for name in echo)
        self._create(who, place, body, asked, key=key, known=known, same=same, echo=echo)

    @precondition(lambda self: self.by_key)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """The same key with the same request finds the job it created."""
        (org_id, who, key), known = data.draw(st.sampled_from(list(self.by_key.items())))
        body = known.body | {"compression": known.document["compression"]}
        place = self.orgs.index(org_id)
        self._create(who, place, known.body, body, key=key, known=known, same=True, echo={})

    def _create(
        self,
        who: str,
        place: int,
        body: dict[str, Any],
        asked: dict[str, Any],
        *,
        key: str | None,
        known: Job | None,
        same: bool,
        echo: dict[str, Any],
    ) -> None:
        org_id = self.orgs[place]
        headers = {} if key is None else {"Idempotency-Key": key}
        status = 422 if known is not None and not same else 202
        answer = self.call(
            who,
            place,
            CREATE,
            "POST",
            "/exports",
            status=status,
            body=json.dumps(asked).encode(),
            headers=headers,
        )
        if answer is None:
            return
        document = read(answer)
        if status == 422:
            assert document["type"] == "urn:problem:analytics:idempotency-key-reused"
            self.world.seen["key used for another"] += 1
            return
        assert answer.headers["location"] == f"{PREFIX}/orgs/{org_id}/exports/{document['jobId']}"
        if known is not None:
            assert document["jobId"] == known.id
            self.world.seen["key used again"] += 1
            return
        assert {name: document[name] for name in echo} == echo
        assert (document["orgId"], document["status"], document["requestedBy"]) == (org_id, "pending", who)
        job = Job(body, document, who)
        assert job.id not in {each.id for jobs in self.jobs.values() for each in jobs}
        self.jobs[org_id].append(job)
        if key is not None:
            self.by_key[org_id, who, key] = job
        self.world.seen["create"] += 1

    def _echo(self, body: dict[str, Any], *, gzip: bool, place: int) -> dict[str, Any]:
        asked = {
            **body["timeRange"],
            "granularity": GRAINS[body["granularity"]],
            "timeZone": body["timeZone"],
        }
        question = Question(asked, self.orgs[place])
        answer = Answer(question, [])
        return {
            "timeRange": {"start": shown(answer.start, question), "end": shown(answer.end, question)},
            "granularity": body["granularity"],
            "groupBy": body["groupBy"],
            "timeZone": body["timeZone"],
            "models": sorted(body["models"]) if "models" in body else None,
            "compression": "gzip" if gzip else "none",
        }

    @rule(who=people, place=places, limit=st.none() | st.integers(1, 4), between=st.booleans(), rng=seeds)
    def pages(self, who: str, place: int, limit: int | None, between: bool, rng: random.Random) -> None:
        """Pages list every job once, the newest first, whatever is created meanwhile."""
        while len(self.jobs[self.orgs[place]]) < 3:
            self._create_any(place, rng)
        wanted = [job.id for job in reversed(self.jobs[self.orgs[place]])]
        listed: list[str] = []
        parameters: dict[str, Any] = {} if limit is None else {"limit": limit}
        while True:
            page = self.ask(who, place, READ, "/exports", **parameters)
            if page is None:
                return
            assert len(page["jobs"]) <= (limit or 50)
            listed += [job["jobId"] for job in page["jobs"]]
            assert len(listed) <= len(wanted)
            if page["nextCursor"] is None:
                break
            assert len(page["jobs"]) == (limit or 50)
            if between and "cursor" not in parameters:
                self._create_any(place, rng)
            parameters["cursor"] = page["nextCursor"]
            self.world.seen["next page"] += 1
        assert listed == wanted
        self.world.seen["pages"] += 1

    def _create_any(self, place: int, rng: random.Random) -> None:
        body = an_export(rng)
        echo = self._echo(body, gzip=False, place=place)
        self._create("owner", place, body, body, key=None, known=None, same=False, echo=echo)

    @rule(who=people, place=places, status=st.sampled_from(["succeeded", "pending", "failed", "expired"]))
    def pages_of_a_status(self, who: str, place: int, status: str) -> None:
        """A status lists those that have it."""
        self.settle()
        page = self.ask(who, place, READ, "/exports", status=status, limit=200)
        if page is not None:
            wanted = (
                [job.id for job in reversed(self.jobs[self.orgs[place]])] if status == "succeeded" else []
            )
            assert [job["jobId"] for job in page["jobs"]] == wanted
            assert {job["status"] for job in page["jobs"]} <= {status}

    @precondition(lambda self: any(self.jobs.values()))
    @rule(who=people, place=places, data=st.data(), rest=st.sampled_from(["", "/download"]))
    def read_any(self, who: str, place: int, data: st.DataObject, rest: str) -> None:
        """An organisation's own job is there; another's is the same 404 as one that never was."""
        owned = [(org_id, job) for org_id, jobs in self.jobs.items() for job in jobs]
        org_id, job = data.draw(st.sampled_from(owned))
        need = DOWNLOAD if rest else READ
        if org_id != self.orgs[place]:
            seen = []
            for job_id in (job.id, str(uuid.uuid4())):
                answer = self.call(who, place, need, "GET", f"/exports/{job_id}{rest}", status=404)
                if answer is None:
                    return
                document = read(answer)
                assert document.pop("instance").endswith(f"/exports/{job_id}{rest}")
                seen.append((document, sorted(answer.headers.keys() - {"x-request-id", "date"})))
            assert seen[0] == seen[1]
            self.world.seen["another's"] += 1
        else:
            found = self.ask(who, place, need, f"/exports/{job.id}")
            if found is not None:
                for name in ("jobId", "orgId", "granularity", "timeRange", "models", "groupBy", "timeZone",
                             "compression", "createdAt", "requestedBy"):  # fmt: skip
                    assert found[name] == job.document[name]
                assert found["status"] in {"pending", "running", "succeeded"}, found
                self.world.seen["read"] += 1

    @precondition(lambda self: any(self.jobs.values()))
    @rule(who=people, data=st.data())
    def download(self, who: str, data: st.DataObject) -> None:
        """The file is what the oracle says, with the checksum and the size that its job says."""
        place = data.draw(st.sampled_from([at for at, org_id in enumerate(self.orgs) if self.jobs[org_id]]))
        job = data.draw(st.sampled_from(self.jobs[self.orgs[place]]))
        self.settle()
        answer = self.call(who, place, DOWNLOAD, "GET", f"/exports/{job.id}/download", status=302)
        if answer is None:
            return
        found = read(self.world.gateway.call("GET", f"{PREFIX}/orgs/{self.orgs[place]}/exports/{job.id}",
                                             headers_of("owner", self.orgs[place], "")))  # fmt: skip
        file = _link.request("GET", answer.headers["location"])
        assert file.status == 200, file.data
        before = datetime.fromisoformat(found["dataAsOf"])
        known = [event for event in self.events if event["publishedAt"] < before]
        check_file(File(found, file.data), job.body, known, self.orgs[place])
        self.world.seen["download"] += 1
