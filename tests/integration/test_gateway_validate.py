"""POST /events/validate: how the ingestor would judge a message, before it is published."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from deploy.local.traffic import Event, Router, encode
from tests.support.gateway_app import PREFIX, Gateway, assert_problem, read

NOW = datetime(2026, 11, 20, 10, tzinfo=UTC)
MOST_BYTES = 1024 * 1024
ANYBODY = {"X-Actor-Subject": "producer", "X-Actor-Roles": "nobody-in-particular"}


@pytest.fixture(scope="module")
def gateway() -> Gateway:
    return Gateway.without_servers(clock=lambda: NOW)


def events(count: int) -> list[Event]:
    return Router(seed=6, start=NOW - timedelta(hours=1), end=NOW).events(count)


def judge(gateway: Gateway, body: bytes, **headers: str) -> Any:
    """Return the faults by field of a message, none when it is valid."""
    answer = gateway.call("POST", f"{PREFIX}/events/validate", ANYBODY, body=body, headers=headers)
    if answer.status_code == 204:
        return {}
    assert_problem(answer, 400)
    return {fault["field"]: fault["reason"] for fault in read(answer)["errors"]}


def test_an_event_and_a_batch_that_are_valid_are_a_204(gateway: Gateway) -> None:
    one, *many = events(1001)
    assert judge(gateway, encode(one)) == {}
    assert judge(gateway, b" \n" + encode(many)) == {}
    snake = {"event_id": one["eventId"], **one}
    del snake["eventId"]
    assert judge(gateway, encode(snake)) == {}


def test_every_fault_of_an_event_is_named(gateway: Gateway) -> None:
    bad = events(1)[0] | {"eventId": "1", "latencyMs": 1.5, "status": "ok", "costEstimateCents": -1}
    del bad["modelId"]
    named = judge(gateway, encode(bad))
    assert named.keys() == {"eventId", "latencyMs", "status", "costEstimateCents", "modelId"}
    assert "success, error, timeout, throttled" in named["status"]
    assert not named["latencyMs"].startswith("latencyMs")


def test_the_faults_of_a_batch_are_named_with_the_event_s_index(gateway: Gateway) -> None:
    first, second, third, fourth = events(4)
    del second["orgId"]
    body = encode([first, second | {"inputTokens": True}, third]).removesuffix(b"]")
    body += b",7,[]," + encode(fourth | {"occurredAt": "2028-01-01T00:00:00Z"}) + b"]"
    named = judge(gateway, body)
    assert {field.partition("]")[0] for field in named} == {"[1", "[3", "[4", "[5"}
    assert {"[1].orgId", "[1].inputTokens", "[3]", "[4]", "[5].occurredAt"} == named.keys()


def test_a_batch_of_nothing_but_faults_is_named_up_to_a_limit(gateway: Gateway) -> None:
    answer = gateway.call(
        "POST", f"{PREFIX}/events/validate", ANYBODY, body=b"[" + b",".join([b"{}"] * 1000) + b"]"
    )
    assert_problem(answer, 400)
    assert len(read(answer)["errors"]) == 1000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"null",
        b"7",
        b'"text"',
        b"[]",
        b"{",
        b"[{",
        b"{}{}",
        b"\xef\xbb\xbf{}",
        b'{"a":"\xff"}',
        b"\xff\xfe{\x00}\x00",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 50_000 + b"]" * 50_000,
        b"[" + b",".join([b"{}"] * 1001) + b"]",
        b"orgId=1&eventId=2",
        b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x--\r\n',
        b"\0" * 100,
    ],
    ids=lambda body: repr(body[:12]),
)
def test_what_is_no_event_is_a_400(gateway: Gateway, body: bytes) -> None:
    assert judge(gateway, body)


@pytest.mark.parametrize(
    "content_type",
    ["application/json; charset=utf-8", "Application/JSON", "application/json ;x", "application/json;"],
)
def test_a_body_may_say_with_parameters_that_it_is_json(gateway: Gateway, content_type: str) -> None:
    assert judge(gateway, encode(events(1)[0]), **{"Content-Type": content_type}) == {}


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999999999999", b"1e400", b"0x1"])
def test_numbers_that_are_none_are_faults(gateway: Gateway, number: bytes) -> None:
    body = encode(events(1)[0] | {"costEstimateCents": 123454321}).replace(b"123454321", number)
    assert judge(gateway, body)


def test_a_message_may_have_one_mebibyte_and_not_a_byte_more(gateway: Gateway) -> None:
    event = encode(events(1)[0])
    assert judge(gateway, event.ljust(MOST_BYTES)) == {}
    [reason] = judge(gateway, event.ljust(MOST_BYTES + 1)).values()
    assert str(MOST_BYTES) in reason
    assert judge(gateway, b"[" * 3 * MOST_BYTES)


def test_this_call_has_no_parameters(gateway: Gateway) -> None:
    answer = gateway.call("POST", f"{PREFIX}/events/validate", ANYBODY, query="dry=1", body=b"{}")
    assert_problem(answer, 400, "dry")
