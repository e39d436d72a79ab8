"""The checker of drills: a right history passes, and each planted fault is found and named."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.local.traffic import Router, Sums, org
from tests.drills.checker import check
from tests.drills.found import Found, Job, Row, add_up, counted
from tests.drills.history import History, Record, read_history, written
from tests.drills.verdict import Verdict

START = datetime(2026, 3, 1, 22, tzinfo=UTC)
EVENTS = Router(seed=1, start=START, end=START + timedelta(hours=4)).events(40)
FILE = ("ab12", 120, 3)


def record(kind: str, state: str, number: int, at: float, **details: Any) -> Record:
    return {"kind": kind, "state": state, "number": number, "monotonic": at, "utc": 1000 + at, **details}


def right_history() -> list[Record]:
    """Forty events in four messages: one sent twice, one without an answer that came through after all."""
    pieces = [written(EVENTS[at : at + 10]) for at in range(0, 40, 10)]
    history: list[Record] = []
    for number, (events, state) in enumerate(
        [(pieces[0], "ok"), (pieces[1], "unknown"), (pieces[2], "ok"), (pieces[3], "ok"), (pieces[0], "ok")]
    ):
        history += [
            record("publish", "invoke", number, number, by="publisher", events=events),
            record("publish", state, number, number + 0.5),
        ]
    read = {"by": "reader", "org_id": org(0), "path": "/usage", "forbidden": False, "audited": True}
    most = sum(event["orgId"] == org(0) for event in EVENTS)
    return [
        *history,
        record("publish", "invoke", 10, 10, by="publisher", events=[], malformed=["d1"]),
        record("publish", "ok", 10, 10.5),
        record("read", "invoke", 20, 20, request_id="r1", **read),
        record("read", "ok", 20, 21, status=200, invocations=most - 1),
        record("read", "invoke", 21, 22, request_id="r2", **read),
        record("read", "ok", 21, 23, status=200, invocations=most),
        record("read", "invoke", 22, 24, request_id="r3", **read | {"forbidden": True, "audited": False}),
        record("read", "fail", 22, 25, status=403),
        record("read", "invoke", 23, 24, request_id="r4", **read),
        record("read", "fail", 23, 25, status=503),
        record("read", "invoke", 24, 26, request_id="r5", **read),
        record("read", "unknown", 24, 27),
        record("fault", "invoke", 30, 30, by="ingestor.kill", target="ingestor"),
        record("fault", "ok", 30, 31),
        record("metrics", "ok", 40, 36, gateway="g1", counters={"requests_total": 7.0, "answers_total": 3.0}),
        record("metrics", "ok", 41, 37, gateway="g1", counters={"requests_total": 9.0}),
        record("metrics", "ok", 42, 38, gateway="g2", counters={"requests_total": 1.0}),
        record("marker", "invoke", 50, 40, by="marker"),
        record("marker", "ok", 50, 42),
        record("marker", "invoke", 51, 42, by="marker"),
        record("download", "invoke", 60, 43, by="exporter", job_id="j1"),
        record("download", "ok", 60, 44, whole=True),
        record("fault", "invoke", 61, 45, by="s3.corrupt_download", target="s3"),
        record("download", "invoke", 62, 46, by="exporter", job_id="j1"),
        record("download", "ok", 62, 47, whole=False),
        record("fault", "ok", 61, 48),
        record("holdings", "ok", 70, 49, held={"gateway": [200.0, 40], "ingestor": [50.0, 20]}),
        record("holdings", "ok", 71, 50, held={"gateway": [300.0, 60]}),
        record("recovery", "invoke", 31, 31, by="ingestor.kill"),
        record("recovery", "ok", 31, 35, seconds=4.0),
    ]


def right_found() -> Found:
    rows = [Row(counted(event), 1050.0) for event in written(EVENTS)]
    events = [row.event for row in rows]
    return Found(
        rows=rows,
        views={"hourly": ("hour", add_up(events, "hour")), "daily": ("day", add_up(events, "day"))},
        dead_letters=[("d1", "invalid-json")],
        jobs=[Job("j1", "succeeded", *FILE, [FILE]), Job("j2", "failed", None, None, None, [])],
        audited=["r1", "r2", "r5"],
    )


def test_a_right_history_passes() -> None:
    verdict = check(right_history(), right_found())
    assert verdict == Verdict(
        attempted=40, acknowledged=30, counted=40, recovered=10, resent=10,
        unconfirmed=1, dead_letters=1, answers=2,
        refused=1, unanswered=1, exports=2, median_visible=48.5, p95_visible=50.0, worst_visible=50.0,
        median_seen=2.0, worst_seen=2.0, downloads=2, mended=1,
    )  # fmt: skip
    assert verdict.holds


def lose_one(_: list[Record], found: Found) -> None:
    found.rows = found.rows[1:]
    found.views = {}


def forget_a_mark(_: list[Record], found: Found) -> None:
    found.rows = [found.rows[0]._replace(visible_at=None), *found.rows[1:]]


def double_one(_: list[Record], found: Found) -> None:
    again = found.rows[0].event._replace(occurred_at=START)
    found.rows = [*found.rows, Row(again, 1050.0)]


def count_what_nobody_sent(_: list[Record], found: Found) -> None:
    found.rows = [*found.rows, Row(found.rows[0].event._replace(event_id="nobody's"), 1050.0)]


def change_one(_: list[Record], found: Found) -> None:
    found.rows = [Row(found.rows[0].event._replace(input_tokens=7), 1050.0), *found.rows[1:]]


def leave_one_queued(_: list[Record], found: Found) -> None:
    found.queued = 1


def lose_a_dead_letter(_: list[Record], found: Found) -> None:
    found.dead_letters = []


def dead_letter_an_innocent(_: list[Record], found: Found) -> None:
    found.dead_letters = [*found.dead_letters, ("d2", "invalid-json")]


def give_no_reason(_: list[Record], found: Found) -> None:
    found.dead_letters = [("d1", "")]


def add_a_bucket_twice(_: list[Record], found: Found) -> None:
    grain, view = found.views["daily"]
    key, sums = next(iter(view.items()))
    found.views = found.views | {
        "daily": (grain, view | {key: replace(sums, invocations=2 * sums.invocations)})
    }


def lose_a_decimal(_: list[Record], found: Found) -> None:
    grain, view = found.views["hourly"]
    key, sums = next(iter(view.items()))
    cost = sums.cost_estimate_cents + Decimal("0.000000000001")
    found.views = found.views | {"hourly": (grain, view | {key: replace(sums, cost_estimate_cents=cost)})}


def lose_an_object(_: list[Record], found: Found) -> None:
    found.jobs = [replace(found.jobs[0], objects=[])]


def leave_two_objects(_: list[Record], found: Found) -> None:
    found.jobs = [replace(found.jobs[0], objects=[FILE, FILE])]


def cut_a_file(_: list[Record], found: Found) -> None:
    found.jobs = [replace(found.jobs[0], objects=[("ab12", 119, 3)])]


def leave_a_job_running(_: list[Record], found: Found) -> None:
    found.jobs = [replace(found.jobs[0], status="running")]


def lose_an_audit_row(_: list[Record], found: Found) -> None:
    found.audited = ["r1", "r5"]


def audit_what_nobody_asked(_: list[Record], found: Found) -> None:
    found.audited = [*found.audited, "r9"]


def end(history: list[Record], number: int, **details: Any) -> None:
    [last] = [each for each in history if each["number"] == number and each["state"] != "invoke"]
    last.update(details)


def show_fewer(history: list[Record], _: Found) -> None:
    end(history, 21, invocations=1)


def show_more(history: list[Record], _: Found) -> None:
    end(history, 21, invocations=41)


def answer_500(history: list[Record], _: Found) -> None:
    end(history, 23, status=500)


def answer_late(history: list[Record], _: Found) -> None:
    end(history, 21, monotonic=43.0)


def show_a_stranger(history: list[Record], _: Found) -> None:
    end(history, 22, status=200, state="ok")


def show_foreign_data(history: list[Record], _: Found) -> None:
    end(history, 21, foreign=True)


def find_a_secret_in_a_log(_: list[Record], found: Found) -> None:
    found.leaks = ["a password in gateway-1.log"]


def let_a_counter_fall(history: list[Record], _: Found) -> None:
    end(history, 41, counters={"answers_total": 2.0})


def cut_a_download(history: list[Record], _: Found) -> None:
    end(history, 60, whole=False)


def exit_with_1(history: list[Record], _: Found) -> None:
    end(history, 30, state="fail", why="ended with 1")


def grow(history: list[Record], _: Found) -> None:
    end(history, 71, held={"gateway": [361.0, 60]})


def keep_descriptors(history: list[Record], _: Found) -> None:
    end(history, 71, held={"gateway": [200.0, 101]})


def recover_late(history: list[Record], _: Found) -> None:
    end(history, 31, seconds=31.0, why="31 s")


def recover_never(history: list[Record], _: Found) -> None:
    history.pop()


@pytest.mark.parametrize(
    ("plant", "invariant", "kind"),
    [
        (lose_one, "I1", "lost"),
        (double_one, "I1", "duplicated"),
        (count_what_nobody_sent, "I1", "unexpected"),
        (change_one, "I1", "changed"),
        (leave_one_queued, "I1", "queued"),
        (lose_a_dead_letter, "I1", "dead-letter-lost"),
        (dead_letter_an_innocent, "I1", "innocent-dead-letter"),
        (give_no_reason, "I1", "dead-letter-without-reason"),
        (forget_a_mark, "I2", "not-visible"),
        (add_a_bucket_twice, "I2", "sums-differ"),
        (lose_a_decimal, "I2", "sums-differ"),
        (lose_an_object, "I4", "objects"),
        (leave_two_objects, "I4", "objects"),
        (cut_a_file, "I4", "file-differs"),
        (leave_a_job_running, "I5", "export-not-ended"),
        (cut_a_download, "I4", "download-differs"),
        (find_a_secret_in_a_log, "I6", "leaked"),
        (let_a_counter_fall, "I7", "counter-fell"),
        (exit_with_1, "I8", "ended-badly"),
        (grow, "I8", "grown"),
        (keep_descriptors, "I8", "grown"),
        (show_a_stranger, "I6", "foreign-data"),
        (show_foreign_data, "I6", "foreign-data"),
        (answer_500, "I7", "status"),
        (answer_late, "I7", "late-answer"),
        (show_fewer, "I7", "wrong-answer"),
        (show_more, "I7", "wrong-answer"),
        (recover_late, "I8", "recovery"),
        (recover_never, "I8", "recovery"),
        (lose_an_audit_row, "I9", "unaudited"),
        (audit_what_nobody_asked, "I9", "audited-unasked"),
    ],
)
def test_a_planted_fault_is_found_and_named(
    plant: Callable[[list[Record], Found], None], invariant: str, kind: str
) -> None:
    history, found = right_history(), right_found()
    plant(history, found)
    assert (invariant, kind) in {(each.invariant, each.kind) for each in check(history, found).findings}


@given(st.integers(0, 39), st.sampled_from(["drop", "double", "cost", "hour", "model", "org"]))
def test_any_one_event_dropped_doubled_or_changed_is_found(at: int, how: str) -> None:
    found = right_found()
    rows = list(found.rows)
    event = rows[at].event
    changed = {
        "cost": event._replace(cost_estimate_cents=event.cost_estimate_cents + Decimal("1E-9")),
        "hour": event._replace(occurred_at=event.occurred_at + timedelta(hours=1)),
        "model": event._replace(model_id="another"),
        "org": event._replace(org_id=org(9)),
    }
    rows[at : at + 1] = {"drop": [], "double": [rows[at]] * 2}.get(how) or [
        Row(changed.get(how, event), 1050.0) for _ in range(how in changed)
    ]
    found.rows = rows
    assert not check(right_history(), found).holds


@settings(deadline=None)  # a busy machine takes long for an example now and then
@given(st.integers(0, 39), st.sampled_from(["hour", "day"]), st.booleans())
def test_any_one_event_added_to_a_view_twice_or_never_is_found(at: int, grain: str, twice: bool) -> None:
    found = right_found()
    events = [row.event for row in found.rows]
    seen = [*events, events[at]] if twice else events[:at] + events[at + 1 :]
    found.views = {"a view": (grain, add_up(seen, grain))}
    assert check(right_history(), found).count("sums-differ") == 1


def test_an_audit_row_that_was_written_again_after_a_lost_reply_is_no_fault() -> None:
    found = right_found()
    found.audited = [*found.audited, "r1"]
    assert check(right_history(), found).holds


def test_a_history_is_read_as_it_was_written_without_a_line_that_was_cut_off(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    number = history.invoke("publish", "publisher-1", events=written(EVENTS[:2]))
    history.end("publish", "ok", number)
    history.close()
    with history.path.open("a", encoding="utf-8") as file:
        file.write('{"kind": "pub')
    records = list(read_history(history.path))
    assert records == history.records
    assert [each["state"] for each in records] == ["invoke", "ok"]
    assert [counted(each).cost_estimate_cents for each in records[0]["events"]] == [
        event["costEstimateCents"] for event in EVENTS[:2]
    ]


def test_sums_are_exact() -> None:
    events = [counted(each) for each in written(EVENTS)]
    total = sum((sums.cost_estimate_cents for sums in add_up(events, "day").values()), Decimal())
    assert total == sum((event["costEstimateCents"] for event in EVENTS), Decimal())
    assert isinstance(next(iter(add_up(events, "hour").values())), Sums)
