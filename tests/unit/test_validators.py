"""One rule for each kind of value, wherever it comes from; each broken rule has its reason."""

import argparse
import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from gateway.http.params import Params
from gateway.http.problems import Faults, Problem
from shared import validators
from shared.validators import Invalid

START = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("validator", "value", "reason"),
    [
        (validators.text(max_length=3), "abcd", "must be 1 to 3 characters without NUL"),
        (validators.text(max_length=3), 7, "must be 1 to 3 characters without NUL"),
        (validators.text(max_length=3), "\ud800", "is not UTF-8"),
        (validators.texts(max_values=2, max_length=3), "abc", "must be a list of 1 to 2 texts"),
        (validators.texts(max_values=2, max_length=3), [], "must be a list of 1 to 2 texts"),
        (
            validators.texts(max_values=2, max_length=3),
            ["a", "b", "c"],
            "has 3 values; at most 2 values are allowed",
        ),
        (validators.texts(max_values=2, max_length=3), ["a", None], "must be 1 to 3 characters without NUL"),
        (validators.choice({"a": 1, "b": 2}), "c", "must be one of a, b"),
        (validators.choice(["a"]), ["a"], "must be one of a"),
        (validators.whole_number(min_value=1, max_value=9), "10", "must be a whole number from 1 to 9"),
        (validators.whole_number(min_value=1, max_value=9), "1.0", "must be a whole number from 1 to 9"),
        (validators.time, "2026-11-01", "must be RFC 3339 with a zone, such as 2026-11-01T00:00:00Z"),
        (validators.time, 7, "must be RFC 3339 with a zone, such as 2026-11-01T00:00:00Z"),
        (validators.day, "20261101", "must be a day such as 2026-11-01"),
        (validators.day, "2026-02-30", "is not in the calendar"),
        (validators.time_zone, "Mars", "must be the name of an IANA time zone, such as Asia/Kolkata"),
        (validators.time_zone, None, "must be the name of an IANA time zone, such as Asia/Kolkata"),
        (validators.time_zone, "", "must be 1 to 100 characters without NUL"),
        (validators.uuid, "7", "must be a UUID of 36 characters with hyphens"),
        (
            validators.org_id,
            "00000000-0000-0000-0000-000000000000",
            "must be a UUID of 36 characters with hyphens, and not the nil UUID",
        ),
    ],
)
def test_a_broken_rule_has_its_reason(validator: Any, value: object, reason: str) -> None:
    with pytest.raises(Invalid) as raised:
        validator(value)
    assert str(raised.value) == reason


def test_a_value_within_its_rule_comes_back_as_its_meaning() -> None:
    assert validators.text(max_length=2, min_length=0)("") == ""
    assert validators.texts(max_values=3, max_length=1)(["b", "a", "b"]) == ("b", "a")
    assert validators.choice({"a": 1})("a") == "a"
    assert validators.whole_number(min_value=0, max_value=9)("007") == 7
    assert validators.time("2026-11-01T01:00:00+01:00") == START
    assert validators.day("2026-11-01") == date(2026, 11, 1)
    assert validators.time_zone("Asia/Kolkata").key == "Asia/Kolkata"
    assert validators.uuid("0A11CE00-0000-4000-8000-00000000000A")[:8] == "0a11ce00"


def test_a_window_is_not_empty_and_not_longer_than_its_limit() -> None:
    validators.check_window(START, START + timedelta(days=2), max_span=timedelta(days=2))
    for end, reason in (
        (START, "must be later than start"),
        (START + timedelta(days=2, microseconds=1), "is more than 2 days after start"),
    ):
        with pytest.raises(Invalid, match=reason):
            validators.check_window(START, end, max_span=timedelta(days=2))


def test_query_body_and_command_line_name_the_same_reason(capsys: pytest.CaptureFixture[str]) -> None:
    reason = "must be RFC 3339 with a zone, such as 2026-11-01T00:00:00Z"
    params = Params("start=now", "start")
    params.time("start")
    body = Faults()
    body.read("start", validators.time, json.loads('{"start": "now"}')["start"])
    for gathered in (params, body):
        with pytest.raises(Problem) as raised:
            gathered.check()
        assert raised.value.faults == [{"field": "start", "reason": reason}]
    parser = argparse.ArgumentParser()
    parser.add_argument("--start", type=validators.argument(validators.time))
    with pytest.raises(SystemExit):
        parser.parse_args(["--start", "now"])
    assert f"argument --start: 'now' {reason}" in capsys.readouterr().err


def test_a_field_keeps_its_first_fault() -> None:
    faults = Faults()
    faults.note("end", "is missing")
    faults.note("end", "must be later than start")
    with pytest.raises(Problem) as raised:
        faults.check()
    assert raised.value.faults == [{"field": "end", "reason": "is missing"}]
