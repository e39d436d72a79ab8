"""What holds for any usage event: nothing but an event or a refusal, exact costs, one digest a meaning."""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta, timezone
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.usage_event import decode as events
from shared.usage_event.decode import Event, decode_event, split_message, stored_digest
from shared.usage_event.diagnose import examine
from shared.usage_event.schema import Fields, InvalidEvent, Reason
from tests.unit.test_events import GOOD, NOW, event, faults_of, from_copy, stored, with_text

quick = settings(max_examples=150, deadline=None)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
NUMBERS = st.one_of(
    st.integers(-(10**13), 10**13).map(str),
    st.decimals(-1, 10**13, allow_nan=False).map(str),
    st.builds("{}e{}".format, st.integers(-9, 999), st.integers(-30, 30)),
).map(lambda text: text.replace("E", "e"))
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "modelId": TEXT,
        "actorId": TEXT | st.none(),
        "clientId": TEXT | st.none(),
        "errorCode": TEXT,
        "latencyMs": st.integers(0, 2**31 - 1),
        "inputTokens": st.integers(12, 10**12),
        "costEstimateCents": st.floats(0, 1e11),
        "metadata": st.dictionaries(TEXT, TEXT, max_size=3),
        "provider": TEXT | st.none(),
        "operation": TEXT | st.none(),
        "apiKeyId": TEXT,
        "cachedInputTokens": st.integers(0, 6) | st.none(),
        "cacheWriteInputTokens": st.integers(0, 6),
        "reasoningTokens": st.integers(0, 34),
        "timeToFirstTokenMs": st.just(0) | st.none(),
        "traceId": st.recursive(st.none() | TEXT, lambda inner: st.lists(inner, max_size=2)),
    },
)


TIMES = st.builds(
    lambda off, hours: (NOW + off).astimezone(timezone(timedelta(hours=hours))).isoformat(),
    st.sampled_from(
        [
            timedelta(hours=-1),
            timedelta(hours=24),
            timedelta(hours=24, microseconds=1),
            timedelta(days=-400),
            timedelta(days=-400, microseconds=-1),
        ]
    ),
    st.sampled_from([0, 0, 5, -9]),
)
SPOILERS = (b"", b'"', b"\\", b"\\u0000", b"\\ud800", b"\xff", b"{", b"]", b",", b":", b"9", b" ")


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """An event, mostly a good one, with fields given twice, or a few bytes replaced, left out or doubled."""
    raw = event(**draw(CHANGES), occurredAt=draw(TIMES))
    if again := draw(CHANGES):
        raw = draw(st.sampled_from([raw, raw[:-1] + b", " + json.dumps(again).encode()[1:]]))
    for _ in range(draw(st.integers(0, 2))):
        start = draw(st.integers(0, len(raw)))
        end = draw(st.integers(start, min(start + 30, len(raw))))
        raw = raw[:start] + draw(st.sampled_from([*SPOILERS, raw[start:end] * 2])) + raw[end:]
    return raw


def outcome(judge: Callable[[], Event]) -> Event | list[tuple[str, Reason]]:
    """Return the event or its faults; any other exception is the test's failure."""
    try:
        return judge()
    except InvalidEvent as refused:
        return [(fault.field, fault.reason) for fault in refused.faults]


@settings(max_examples=500, deadline=None)
@given(
    st.one_of(spoiled(), st.binary(max_size=40), st.text('[]{}",:\\u0d8 tNa1-', max_size=30).map(str.encode))
)
def test_any_bytes_are_an_event_or_refused_and_the_quick_look_agrees_with_the_thorough_one(
    raw: bytes,
) -> None:
    def thoroughly() -> Event:
        return events._event(examine(raw, NOW), NOW, escapes=True)

    assert outcome(lambda: decode_event(raw, NOW)) == outcome(thoroughly)
    with suppress(InvalidEvent):
        for element in split_message(raw):
            outcome(lambda element=element: decode_event(element, NOW))  # type: ignore[misc]


@quick
@given(NUMBERS)
def test_a_cost_is_the_exact_decimal_rounded_half_to_even_at_the_tenth(text: str) -> None:
    value = Decimal(text)
    raw = with_text("costEstimateCents", text)
    if not 0 <= value < 10**12:
        assert faults_of(raw) == [("costEstimateCents", "invalid-field")]
        return
    kept = stored(raw)["cost_estimate_cents"]
    assert kept is not None
    wanted = value.quantize(Decimal("1e-10"), context=Context(prec=60, rounding=ROUND_HALF_EVEN))
    assert Decimal(kept) == wanted
    assert re.fullmatch(r"(0|[1-9][0-9]*)(\.[0-9]{0,9}[1-9])?", kept)


@quick
@given(CHANGES)
def test_copy_reads_back_what_the_producer_wrote_whatever_the_texts_hold(changes: dict[str, Any]) -> None:
    fields = stored(event(**changes))
    absent = dict.fromkeys(["actorId", "clientId", "errorCode", "provider", "operation", "apiKeyId"])
    wanted = GOOD | absent | {"metadata": {}} | changes
    for column, name in (
        ("model_id", "modelId"),
        ("actor_id", "actorId"),
        ("client_id", "clientId"),
        ("error_code", "errorCode"),
        ("provider", "provider"),
        ("operation", "operation"),
        ("api_key_id", "apiKeyId"),
    ):
        assert fields[column] == wanted[name]  # fmt: skip
    assert json.loads(fields["metadata"] or "") == wanted["metadata"]
    decoded = decode_event(event(**changes), NOW)
    assert stored_digest(from_copy(decoded.copy_line)) == decoded.content_digest
    assert "\n" not in decoded.copy_line
    assert "\r" not in decoded.copy_line


@quick
@given(CHANGES)
def test_both_spellings_and_any_order_have_one_digest_and_another_value_has_another(
    changes: dict[str, Any],
) -> None:
    camel = decode_event(event(**changes), NOW)
    fields = json.loads(event(**changes))
    snake = {re.sub("[A-Z]", lambda m: f"_{m[0].lower()}", key): fields[key] for key in reversed(fields)}
    assert set(snake) - {"trace_id"} <= set(Fields.__struct_fields__)
    assert decode_event(json.dumps(snake).encode(), NOW) == camel
    other = decode_event(event(**changes | {"outputTokens": 35}), NOW)
    assert other.content_digest != camel.content_digest
