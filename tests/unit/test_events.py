"""Which usage events are accepted, as what, and the faults of each that is not."""

import json
import re
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from shared.usage_event.decode import decode_event, split_message
from shared.usage_event.schema import COPY_COLUMNS, RULES, InvalidEvent

NOW = datetime(2026, 11, 23, 9, 4, tzinfo=UTC)
GOOD: dict[str, Any] = {
    "eventId": "0193586A-5b7c-7def-8123-456789abcdef",
    "orgId": "11111111-2222-4333-8444-555555555555",
    "occurredAt": "2026-11-23T09:03:59.25Z",
    "modelId": "meta-llama/Llama-3.1-8B",
    "status": "success",
    "latencyMs": 250,
    "inputTokens": 12,
    "outputTokens": 34,
    "costEstimateCents": 0.25,
}
ABSENT = object()


def event(**changes: Any) -> bytes:
    """Write the good event with some fields changed, added, or left out (ABSENT)."""
    fields = {key: value for key, value in (GOOD | changes).items() if value is not ABSENT}
    return json.dumps(fields, ensure_ascii=False).encode()


def with_text(field: str, json_text: str | bytes) -> bytes:
    """Write the good event with a field, or an unknown key, whose JSON text is given as it is."""
    text = json_text.encode() if isinstance(json_text, str) else json_text
    return event(**{field: ABSENT})[:-1] + b', "' + field.encode() + b'": ' + text + b"}"


def stored(raw: bytes) -> dict[str, str | None]:
    """Return an event's COPY fields by column, as PostgreSQL would read them."""
    return dict(zip(COPY_COLUMNS, from_copy(decode_event(raw, NOW).copy_line), strict=True))


def from_copy(line: str) -> list[str | None]:
    r"""Read a line of COPY's text format, after PostgreSQL's documentation; \N is NULL."""
    plain = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
    return [
        None if field == r"\N" else re.sub(r"\\(.)", lambda m: plain.get(m[1], m[1]), field, flags=re.DOTALL)
        for field in line.split("\t")
    ]


def faults_of(raw: bytes) -> list[tuple[str, str]]:
    """Return what is wrong with an event: fields and reasons."""
    with pytest.raises(InvalidEvent) as caught:
        decode_event(raw, NOW)
    refused = caught.value
    assert refused.reason == refused.faults[0].reason
    assert refused.detail.isascii()
    assert refused.detail.isprintable()
    return [(fault.field, str(fault.reason)) for fault in refused.faults]


def test_a_good_event_is_stored_as_it_was_meant() -> None:
    raw = event(actorId="user-1", errorCode=None, metadata={"b": "x\ty", "a": "ü\\"})
    decoded = decode_event(raw, NOW)
    assert (decoded.event_id, decoded.org_id) == (GOOD["eventId"].lower(), GOOD["orgId"])
    assert decoded.occurred_at == datetime(2026, 11, 23, 9, 3, 59, 250_000, UTC)
    assert stored(raw) == {
        "event_id": "0193586a-5b7c-7def-8123-456789abcdef",
        "org_id": GOOD["orgId"],
        "occurred_at": "2026-11-23T09:03:59.250000Z",
        "model_id": "meta-llama/Llama-3.1-8B",
        "status": "success",
        "latency_ms": "250",
        "input_tokens": "12",
        "output_tokens": "34",
        "cost_estimate_cents": "0.25",
        "actor_id": "user-1",
        "client_id": None,
        "error_code": None,
        "metadata": '{"a":"ü\\\\","b":"x\\ty"}',
        **dict.fromkeys(COPY_COLUMNS[13:]),
    }


# Each pair: a field's JSON text, and the text that is stored of it.
ACCEPTED = [
    ("eventId", f'"{"F" * 8}-{"F" * 4}-{"F" * 4}-{"F" * 4}-{"F" * 12}"', str(uuid.UUID(int=2**128 - 1))),
    ("eventId", f'"{uuid.UUID(int=0)}"', str(uuid.UUID(int=0))),
    ("occurredAt", '"2026-11-24T09:04:00Z"', "2026-11-24T09:04:00.000000Z"),
    ("occurredAt", '"2025-10-19T09:04:00Z"', "2025-10-19T09:04:00.000000Z"),
    ("occurredAt", '"2026-11-23T14:33:59+05:30"', "2026-11-23T09:03:59.000000Z"),
    ("occurredAt", '"2026-11-23T00:03:59-09:00"', "2026-11-23T09:03:59.000000Z"),
    ("occurredAt", '"2026-11-23t09:03:59.1z"', "2026-11-23T09:03:59.100000Z"),
    ("occurredAt", '"2026-11-23T08:59:59.999999999Z"', "2026-11-23T08:59:59.999999Z"),
    ("occurredAt", f'"2026-11-23T08:59:59.{"9" * 40}+00:00"', "2026-11-23T08:59:59.999999Z"),
    ("modelId", json.dumps("😀" * 200), "😀" * 200),
    ("modelId", '"0193586a-5b7c-7def-8123-456789abcdef"', "0193586a-5b7c-7def-8123-456789abcdef"),
    ("modelId", r'"tab\t line\n return\r"', "tab\t line\n return\r"),
    ("modelId", r'"back\\slash \" quote"', 'back\\slash " quote'),
    ("modelId", r'"\\u0000 is six characters"', "\\u0000 is six characters"),
    ("actorId", r'"\\N"', "\\N"),
    ("actorId", "null", None),
    ("errorCode", json.dumps("E" * 128), "E" * 128),
    ("status", '"throttled"', "throttled"),
    ("latencyMs", "2147483647", "2147483647"),
    ("latencyMs", "-0", "0"),
    ("inputTokens", "1000000000000", "1000000000000"),
    ("costEstimateCents", "0", "0"),
    ("costEstimateCents", "-0.0", "0"),
    ("costEstimateCents", "0.000015", "0.000015"),
    ("costEstimateCents", "1.5e-5", "0.000015"),
    ("costEstimateCents", "1E2", "100"),
    ("costEstimateCents", "100", "100"),
    ("costEstimateCents", "1.2500", "1.25"),
    ("costEstimateCents", "0.00000000005", "0"),  # a half goes to the even neighbour
    ("costEstimateCents", "0.00000000015", "0.0000000002"),
    ("costEstimateCents", "0.00000000025", "0.0000000002"),
    ("costEstimateCents", "0.000000000250000000000000000000000000000000000001", "0.0000000003"),
    ("costEstimateCents", "0.1234567890123456789", "0.123456789"),
    ("costEstimateCents", "999999999999.9999999999", "999999999999.9999999999"),
    ("costEstimateCents", "1e-400", "0"),
    ("costEstimateCents", "0e400", "0"),
    ("metadata", "null", "{}"),
    ("metadata", '{"b": "2", "a": "1"}', '{"a":"1","b":"2"}'),
    ("metadata", json.dumps({"k": "v" * (16 * 1024 - 8)}), '{"k":"' + "v" * (16 * 1024 - 8) + '"}'),
]  # fmt: skip


@pytest.mark.parametrize(("field", "text", "wanted"), ACCEPTED)
def test_a_value_within_its_rule_is_stored_exactly(field: str, text: str, wanted: str | None) -> None:
    column = re.sub("[A-Z]", lambda capital: f"_{capital[0].lower()}", field)
    assert stored(with_text(field, text))[column] == wanted


def test_an_optional_field_may_be_left_out_or_null_which_is_the_same() -> None:
    nulls = event(actorId=None, clientId=None, errorCode=None, metadata=None)
    assert decode_event(nulls, NOW) == decode_event(event(), NOW) == decode_event(event(metadata={}), NOW)


@pytest.mark.parametrize(
    "unknown",
    ["1", "null", r'"a \" quote"', '{"eventId": [1e400, 12345678901234567890]}', "[" * 90 + "]" * 90],
)  # fmt: skip
def test_unknown_keys_are_ignored(unknown: str) -> None:
    assert decode_event(with_text("traceId", unknown), NOW) == decode_event(event(), NOW)


def test_a_field_given_again_with_the_same_meaning_is_that_field() -> None:
    again = {
        "cost_estimate_cents": "2.5e-1",
        "org_id": f'"{GOOD["orgId"]}"',
        "occurred_at": '"2026-11-23T10:03:59.250+01:00"',
        "eventId": f'"{GOOD["eventId"].lower()}"',
    }
    for name, text in again.items():
        assert decode_event(event()[:-1] + f', "{name}": {text}}}'.encode(), NOW) == decode_event(
            event(), NOW
        )


INVALID = [
    *((field, "null") for field in GOOD),
    *((field, text) for field in ("eventId", "orgId") for text in (
        '""', "1", '"0193586a5b7c7def8123456789abcdef"', '"{0193586a-5b7c-7def-8123-456789abcdef}"',
        '"urn:uuid:0193586a-5b7c-7def-8123-456789abcdef"', '"0193586a-5b7c-7def-8123-456789abcde"',
        '"0193586a-5b7c-7def-8123-456789abcdeg"', '"0193586a-5b7c-7def-8123-456789abcde\uff11"',
        '"0193586a_5b7c_7def_8123_456789abcdef"', '" 0193586a-5b7c-7def-8123-456789abcde"')),
    ("orgId", '"00000000-0000-0000-0000-000000000000"'),
    *(("occurredAt", f'"{text}"') for text in (
        "", "tomorrow", "now", "infinity", "1763888639", "2026-11-23", "20261123T090359Z",
        "2026-11-23T09:03:59",
        "2026-11-23 09:03:59Z", "2026-W48-1T09:03:59Z", "2026-11-23T09:03Z", "2026-11-23T09:03:59,5Z",
        "2026-11-23T09:03:59.Z", "2026-11-23T24:00:00Z", "2026-11-23T09:03:60Z", "2026-11-31T09:03:59Z",
        "2026-11-23T09:03:59+0100", "2026-11-23T09:03:59+24:00", "2026-11-23T09:03:59+01",
        "2026-11-23T09:03:59+01:60",
        "\uff12026-11-23T09:03:59Z", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00", " 2026-11-23T09:03:59Z", "2026-11-23T09:03:59Z ",
        "2026-11-23T09:03:59Z+00:00")),
    ("occurredAt", "1763888639"),
    *((field, text) for field in ("modelId", "actorId", "clientId") for text in (
        '""', "1", '["a"]', json.dumps("x" * 201), r'"a\u0000b"')),
    *(("errorCode", text) for text in ('""', "500", json.dumps("x" * 129))),
    *(("status", text) for text in ('""', '"Success"', '"failed"', "1", '["success"]')),
    *((field, text) for field in ("latencyMs", "inputTokens", "outputTokens") for text in (
        "-1", "1000.7", "12.0", "1e3", '"12"', "true", "[1]", "9223372036854775808", "1000000000001",
        "1" * 5000)),
    ("latencyMs", "2147483648"),
    *(("costEstimateCents", text) for text in (
        '"1"', "true", "[]", "{}", "-1", "-0.00000000001", "-1e-400", "1e12", "1000000000000", "1e400",
        "1e999999999999999999999")),
    *(("metadata", text) for text in (
        '""', "[]", "1", '{"a": 1}', '{"a": null}', '{"a": {}}', r'{"a\u0000": "b"}', r'{"a": "\u0000"}',
        json.dumps({"k": "v" * (16 * 1024 - 7)}), json.dumps({"k": "ü" * (8 * 1024 - 3)}))),
    ("traceId", r'"\u0000"'),
    ("traceId", r'{"deep": [{"\u0000": 1}]}'),
]  # fmt: skip


@pytest.mark.parametrize(("field", "text"), INVALID)
def test_a_value_outside_its_rule_is_refused_by_name(field: str, text: str) -> None:
    assert faults_of(with_text(field, text)) == [(field, "invalid-field")]


NO_JSON = [
    "NaN", "Infinity", "-Infinity", r'"\ud800"', r'"\udc00 a"', r'"\ud800A"', "01", "1.", "+1", "tru", "",
    "1 2", "'a'",
    '"a\x00b"', '"a\nb"', r'"\x41"', '{"a": NaN}', "[1,]", "[}", "[" * 100_000 + "]" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("text", NO_JSON, ids=lambda text: ascii(text[:20]))
@pytest.mark.parametrize("field", ["modelId", "costEstimateCents", "metadata", "traceId"])
def test_a_value_that_is_no_json_is_refused_by_name(field: str, text: str) -> None:
    assert faults_of(with_text(field, text)) == [(field, "invalid-json")]


@pytest.mark.parametrize("text", [b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\x80"', '"ü"'.encode("utf-16-le")])
@pytest.mark.parametrize("field", ["modelId", "metadata", "traceId"])
def test_bytes_that_are_no_utf_8_are_refused_under_every_key(field: str, text: bytes) -> None:
    assert faults_of(with_text(field, text))[0][1] in {"invalid-utf8", "invalid-json"}
    assert faults_of(with_text(field, b'["\xff"]')) == [(field, "invalid-utf8")]


WHOLE: list[tuple[bytes, str]] = [
    (b"", "invalid-json"),
    (event()[:-1], "invalid-json"),
    (event() + b"x", "invalid-json"),
    (event()[:-1] + b",}", "invalid-json"),
    (event()[:-1] + b', "a" 1}', "invalid-json"),
    (event()[:-1] + b", 1: 2}", "invalid-json"),
    (event()[:-1] + b"]", "invalid-json"),
    (b"\xef\xbb\xbf" + event(), "invalid-json"),
    (b"[" * 100_000, "invalid-json"),
    (event().decode().encode("utf-16"), "invalid-utf8"),
    (b"\xff", "invalid-utf8"),
    (event()[:-1] + b', "\xff": 1}', "invalid-utf8"),
    (event()[:-1] + rb', "\ud800": 1}', "invalid-json"),
    (event()[:-1] + rb', "\u0000": 1}', "invalid-field"),
    (b'"an event"', "not-an-object"),
    (b"null", "not-an-object"),
    (b"[" + event() + b"]", "not-an-object"),
]


@pytest.mark.parametrize(("raw", "reason"), WHOLE, ids=[ascii(raw[-20:]) for raw, _ in WHOLE])
def test_a_text_that_is_no_event_at_all_says_why(raw: bytes, reason: str) -> None:
    assert faults_of(raw) == [("", reason)]


@pytest.mark.parametrize("field", GOOD)
def test_a_required_field_that_is_missing_is_named(field: str) -> None:
    assert faults_of(event(**{field: ABSENT})) == [(field, "missing-field")]


@pytest.mark.parametrize(
    ("again", "field"),
    [
        ('"event_id": "0193586a-5b7c-7def-8123-456789abcdee"', "eventId"),
        ('"latencyMs": 251', "latencyMs"),
        ('"latency_ms": 251', "latencyMs"),
        ('"cost_estimate_cents": 0.2500000001', "costEstimateCents"),
        ('"actorId": "a", "actor_id": null', "actorId"),
        ('"metadata": {"a": "1", "a": "2"}', "metadata"),
        ('"metadata": {"a": "1"}, "metadata": {}', "metadata"),
        (r'"status": "success", "st\u0061tus": "error"', "status"),
    ],
)
def test_a_field_given_twice_with_different_values_is_ambiguous(again: str, field: str) -> None:
    assert faults_of(event()[:-1] + f", {again}}}".encode()) == [(field, "ambiguous-field")]


@pytest.mark.parametrize(
    ("off", "reason"),
    [
        (timedelta(hours=24, microseconds=1), "occurred-at-in-future"),
        (timedelta(days=-400, microseconds=-1), "occurred-at-too-old"),
        (timedelta(days=2900_000), "occurred-at-in-future"),
    ],
)
@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=-5))])
def test_a_time_outside_the_window_is_refused(off: timedelta, reason: str, zone: timezone) -> None:
    text = (NOW + off).astimezone(zone).isoformat()
    assert faults_of(event(occurredAt=text)) == [("occurredAt", reason)]


def test_every_fault_of_an_event_is_named_in_the_contract_s_order() -> None:
    raw = with_text("traceId", "NaN").replace(b'"latencyMs": 250', b'"latencyMs": "250"')
    raw = raw.replace(b'"status": "success", ', b"").replace(b'"modelId"', b'"event_id": "x", "modelId"')
    assert faults_of(raw) == [
        ("eventId", "invalid-field"),
        ("status", "missing-field"),
        ("latencyMs", "invalid-field"),
        ("traceId", "invalid-json"),
    ]
    with pytest.raises(InvalidEvent, match=f"latencyMs must be {RULES['latency_ms']}"):
        decode_event(raw, NOW)
    with pytest.raises(InvalidEvent, match="and 4 more faults"):
        decode_event(b"{}", NOW)


def test_a_message_is_one_event_or_a_batch() -> None:
    assert split_message(event()) == [event()]
    assert split_message(b" \n" + event()) == [b" \n" + event()]
    assert split_message(b"[" + event() + b" ,\n1]") == [event(), b"1"]
    assert len(split_message(b"[" + b",".join([b"{}"] * 1_000) + b"]")) == 1_000


@pytest.mark.parametrize(
    "bad",
    [
        b"NaN",
        b"\xff",
        rb'{"a": "\ud800"}',
        rb'{"a": "],[\""}',
        b'{"a": tru}',
        b'{"a": 1} {"b": 2}',
        b"[" * 5_000 + b"]" * 5_000,
    ],
    ids=lambda bad: ascii(bad[:20]),
)
def test_an_element_that_is_no_event_harms_no_other_of_its_batch(bad: bytes) -> None:
    good = event(metadata={'"]': '},{\\"'})
    assert split_message(b" [" + good + b"," + bad + b" , " + good + b"]\n") == [good, bad, good]
    assert faults_of(bad)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"a":"' + b"x" * 2**20 + b'"}', "message-too-large"),
        (b"[" + b",".join([b"{}"] * 1_001) + b"]", "batch-too-large"),
        (b"[NaN," + b",".join([b"{}"] * 1_000) + b"]", "batch-too-large"),
        (b"[" + b"," * 2_000 + b"]", "batch-too-large"),
        (b" [ ] ", "empty-batch"),
        (b"", "invalid-json"),
        (b"[", "invalid-json"),
        (b"[" * 100_000, "invalid-json"),
        (b"[{},]", "invalid-json"),
        (b"[{}}", "invalid-json"),
        (b"[{}] x", "invalid-json"),
        (b"[{}", "invalid-json"),
        (b'["', "invalid-json"),
        (b"\xef\xbb\xbf[{}]", "invalid-json"),
        (b"\xfe\xff[", "invalid-utf8"),
        (b"12", "not-an-object"),
    ],
    ids=lambda value: value if isinstance(value, str) else ascii(value[:20]),
)
def test_a_message_that_is_neither_says_why(body: bytes, reason: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        split_message(body)
    assert caught.value.reason == reason
