"""Makes messages from a grammar of events: good ones, odd ones, and bytes that are hardly events any more."""

import json
import re
import uuid
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from typing import TypeVar

from hypothesis import strategies as st

from deploy.local.traffic import org
from tests.support.event_reading import snake

T = TypeVar("T")

REQUIRED = ("eventId", "orgId", "occurredAt", "modelId", "status", "latencyMs", "inputTokens", "outputTokens",
            "costEstimateCents")  # fmt: skip
LENGTHS = {
    "modelId": 200, "actorId": 200, "clientId": 200, "errorCode": 128, "provider": 100, "operation": 64,
    "apiKeyId": 200,
}  # fmt: skip
MAX_MESSAGE = 1024 * 1024
MAX_METADATA = 16 * 1024

_LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
_TEXTS = st.text(_LETTERS, min_size=1, max_size=8) | st.sampled_from(
    ["\\N", "\\.", "a\tb", "a\nb", "\r", "\\", '"', "\x7f\x1f\x01", "\u2028", "é", "e\u0301", "\U0001f600",
     "null", "=1+1", "'; DROP TABLE usage_events; --", " ", "\ufeff", "\ufffe\uffff"]
)  # fmt: skip

_INTEGERS = st.one_of(
    st.integers(0, 3000).map(str),
    st.sampled_from(["0", "-0", "1000000000000", "2147483647"]),
)
_COSTS = st.one_of(
    st.builds("{}.{}".format, st.integers(0, 10**12 - 1), st.text("0123456789", min_size=1, max_size=14)),
    st.integers(0, 10**12 - 1).map(str),
    st.builds("{}{}{}{}".format, st.integers(0, 10**6), st.sampled_from(["e", "E", ".5e", ".25E+", ".0e-"]),
              st.integers(0, 14), st.just("")),
    st.sampled_from(["0", "-0", "-0.0", "0e0", "0.00000000005", "0.00000000015", "0.0000000000500000001",
                     "999999999999.99999999999", "1e-400", "1e11", "9.9999999999999999e11", "0e400",
                     "1e-999999999999999999", "0.000015", "1" + "0" * 11 + "." + "1" * 900, "5e-11",
                     "15E-11"]),
)  # fmt: skip

# Of any field: the wrong type, out of range, or no JSON at all.
_ODD_VALUES = st.sampled_from(
    ["null", "true", "false", '""', '"x"', "-1", "1.0", "1e3", "12.5", '"12"', "[]", "{}", "[1]", '{"a":1}',
     "9223372036854775808", "1000000000001", "2147483648", "1" * 500, "-0.0000000000001", "1e12", "1e400",
     "1e9999999999999999999", "0e9999999999999999999", "1e00000000000000000005", "-1e-400",
     r'"\u0000"', r'"a\u0000b"', r'"\\u0000"', r'"\ud800"', r'"\udc00\ud800"', r'"\ud83d\ude00"',
     r'"\ud800\u0000"', r'{"\u0000": "a"}', r'{"a": "\ud800"}', '{"a": "1", "a": "2"}',
     '{"a": "1", "a": "1"}', '{"a": null}',
     r'{"a": "1", "\u0061": "1"}', "NaN", "Infinity", "-Infinity", "01", "1.", ".5", "+1", "tru", "", "1 2",
     "'a'", '"a\x00b"', '"a\nb"', r'"\x41"', r'"\u12"', "[1,]", "[}", "[[[1]]", '"unclosed',
     '{"a"}', "/*c*/1",
     "[" * 90 + "]" * 90, "[" * 100_000 + "]" * 100_000, '{"a":' * 50 + "1" + "}" * 50,
     '"2026-11-23"', '"2026-11-23T09:03:60Z"', '"2026-11-23T24:00:00Z"', '"2026-11-31T00:00:00Z"',
     '"0001-01-01T00:00:00+01:00"', '"9999-12-31T23:59:59-01:00"', '"0000-01-01T00:00:00Z"', '"SUCCESS"',
     '"00000000-0000-0000-0000-000000000000"', '"\u0660193586a-5b7c-7def-8123-456789abcdef"']
)  # fmt: skip
_ODD_BYTES = st.sampled_from(
    [b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\x80"', b"\xef\xbb\xbf1", b'"\xf4\x90\x80\x80"']
)
_BLANKS = st.sampled_from(["", "", "", " ", "\n", "\t \r\n"])
_BAD_BLANKS = st.sampled_from(["\x0b", "\x0c", "\u00a0", "\ufeff", "\x00"])
_SPOILERS = st.sampled_from([b"", b'"', b"\\", b"\\u0000", b"\\ud800", b"\xff", b"{", b"}", b"[", b"]", b",",
                             b":",
                             b"9", b" ", b"\x00", b"null", b"/", b"\xef\xbb\xbf"])  # fmt: skip


def _mostly(usual: st.SearchStrategy[T], other: st.SearchStrategy[T], times: int) -> st.SearchStrategy[T]:
    """Take the other strategy once in so many times."""
    return st.integers(1, times).flatmap(lambda number: other if number == times else usual)


def quoted(text: str, style: int) -> str:
    """Write a text as JSON: as it is, in ASCII, or with every character escaped."""
    if style == 2:
        units = text.encode("utf-16-be")
        return '"' + "".join(f"\\u{units[at]:02x}{units[at + 1]:02X}" for at in range(0, len(units), 2)) + '"'
    return json.dumps(text, ensure_ascii=style == 1)


_STYLES = st.sampled_from([0, 0, 0, 1, 1, 2])
_QUOTED = st.builds(quoted, _TEXTS, _STYLES)
# The first few organisations and ids, so that some are there again.
_IDS = st.builds(
    lambda number, case: json.dumps(case(str(uuid.UUID(int=number)))),
    st.integers(0, 2**128 - 1) | st.integers(0, 30),
    st.sampled_from([str.lower, str.upper]),
)
_ORGS = st.builds(
    lambda number, case: json.dumps(case(org(number))),
    st.integers(0, 2),
    st.sampled_from([str.lower, str.upper]),
)


@st.composite
def _times(draw: st.DrawFn, now: datetime, slack: timedelta) -> str:
    """Write an instant within, at or past the limits; slack: how far it stays from them."""
    old, ahead = now - timedelta(days=400), now + timedelta(hours=24)
    tick = timedelta(microseconds=1)
    at = draw(
        st.one_of(
            st.integers(0, 399 * 86_400).map(
                lambda seconds: now - timedelta(seconds=seconds, microseconds=seconds)
            ),
            st.sampled_from([old + slack, ahead - slack, now, old - slack - tick, ahead + slack + tick]),
        )
    )
    zone = timezone(timedelta(minutes=draw(st.sampled_from([0, 0, 0, 330, -570, 1439, -1439, 60]))))
    text = at.astimezone(zone).isoformat()
    form = draw(st.sampled_from(["", "", "Z", "z t", "more"]))
    if form:
        text = text.replace("+00:00", "Z")
    if form == "more":
        text = re.sub(r"(\.\d+)", r"\g<1>999", text)
    return json.dumps(text.lower() if form == "z t" else text)


@st.composite
def _metadata(draw: st.DrawFn) -> str:
    if draw(st.integers(0, 20)) == 0:  # about its largest size
        left = MAX_METADATA - len('{"k":""}') + draw(st.integers(-1, 1))
        letter = draw(st.sampled_from(["v", "\\n", "ü"]))
        size = len(letter.encode())
        return json.dumps({"k": "@"})[:-3] + letter * (left // size) + "v" * (left % size) + '"}'
    pairs = draw(st.lists(st.tuples(_QUOTED, _QUOTED), max_size=3))
    return "{" + ", ".join(f"{name}: {value}" for name, value in pairs) + "}"


@st.composite
def _long_text(draw: st.DrawFn, length: int) -> str:
    """Write a text about as long as it may be."""
    letter = draw(_LONG_LETTERS)
    return quoted(letter * (length + draw(_ABOUT)), draw(_STYLES))


_LONG_LETTERS = st.sampled_from(["x", "é", "\U0001f600", "\\"])
_ABOUT = st.integers(-1, 1)
_MANY_TOKENS = _INTEGERS | st.integers(3000, 10**12).map(str)
_PARTS = st.integers(0, 4000).map(str) | st.just("0")


@cache
def _value(name: str, now: datetime, slack: timedelta) -> st.SearchStrategy[str]:
    """Return the values of a field, most of which keep its rule."""
    if name in LENGTHS:
        return _mostly(_QUOTED, _long_text(LENGTHS[name]), 15)
    strategies = {
        "eventId": _IDS,
        "orgId": _ORGS,
        "occurredAt": _times(now, slack),
        "status": st.sampled_from(['"success"', '"error"', '"timeout"', r'"thr\u006fttled"']),
        "inputTokens": _MANY_TOKENS,
        "outputTokens": _MANY_TOKENS,
        "latencyMs": _INTEGERS | st.integers(3000, 2**31 - 1).map(str),
        "costEstimateCents": _COSTS,
        "metadata": _metadata(),
        "traceId": _QUOTED,
    }
    return strategies.get(name, _PARTS)


@cache
def _name(name: str) -> st.SearchStrategy[str]:
    """Return a field's name as it may be written."""
    spelled = f'"{name}"', f'"{snake(name)}"', quoted(name, 2), quoted(snake(name), 2)
    return st.sampled_from([spelled[0]] * 15 + [spelled[1]] * 6 + [*spelled[2:]])


_OPTIONAL = st.lists(
    st.sampled_from([*LENGTHS, "metadata", "cachedInputTokens", "cacheWriteInputTokens", "reasoningTokens",
                     "timeToFirstTokenMs", "traceId"]),
    max_size=6, unique=True,
).map(lambda names: [name for name in names if name not in REQUIRED])  # fmt: skip
_ORDERS = st.one_of(st.none(), st.none(), st.randoms(use_true_random=False))
_ONE_IN_NINE = st.integers(0, 8).map(lambda number: number == 8)
_SPOILS = st.sampled_from([0, 0, 0, 0, 1, 1, 2])
_AROUND = _mostly(_BLANKS, _BAD_BLANKS, 60)
_HOW = st.sampled_from(["odd", "odd", "odd", "out", "again", "same", "unknown", "name"])
_ODD_NAMES = st.sampled_from([r'"\u0000"', r'"\ud800"', '"Extra"', '"EventId"', "extra", '""', r'"\q"', "1"])
_ODD = _ODD_VALUES.map(lambda text: text.encode("utf-8", "surrogatepass")) | _ODD_BYTES


@st.composite
def events(draw: st.DrawFn, now: datetime, slack: timedelta = timedelta()) -> bytes:
    """Write an event, mostly a good one. slack: how far its time stays from the limits, at least."""
    names = [*REQUIRED, *draw(_OPTIONAL)]
    if (order := draw(_ORDERS)) is not None:
        order.shuffle(names)
    members: list[tuple[str, bytes]] = []
    for name in names:
        is_null = name not in REQUIRED and draw(_ONE_IN_NINE)
        value = "null" if is_null else draw(_value(name, now, slack))
        members.append((draw(_name(name)), value.encode()))
    for _ in range(draw(_SPOILS)):
        _spoil(draw, members, now, slack)
    blank = draw(_AROUND).encode()
    inside = (b"," + blank).join(name.encode() + blank + b":" + blank + value for name, value in members)
    return b"{" + blank + inside + blank + b"}" + blank


def _spoil(draw: st.DrawFn, members: list[tuple[str, bytes]], now: datetime, slack: timedelta) -> None:
    """Leave a member out, give it again, or give it an odd value."""
    if not members:
        return
    at = draw(st.integers(0, len(members) - 1))
    name, value = members[at]
    known = (*REQUIRED, *LENGTHS)
    plain = next((field for field in known if name in {f'"{field}"', f'"{snake(field)}"'}), "traceId")
    what = draw(_HOW)
    if what == "odd":
        members[at] = (name, draw(_ODD))
    elif what == "out":
        del members[at]
    elif what == "again":
        members.append((draw(_name(plain)), draw(_value(plain, now, slack)).encode()))
    elif what == "same":
        members.append((draw(_name(plain)), value))
    elif what == "unknown":
        members.insert(at, ('"extra"', draw(_ODD)))
    else:
        members.insert(at, (draw(_ODD_NAMES), value))


ODD_ELEMENTS = (
    b"1", b"null", b'"an event"', b"[]", b"[{}]", b"{}", b"NaN", b"\xff", b"tru", rb'{"a": "\ud800"}',
    rb'"\u0000"', rb'{"a": "],[\""}', b"{,}", b'{"a" 1}', b"[" * 200 + b"]" * 200,
)  # fmt: skip
"""Elements of a batch that are no events, some no JSON, all with brackets that match."""


@st.composite
def batches(draw: st.DrawFn, now: datetime, slack: timedelta = timedelta()) -> tuple[bytes, list[bytes]]:
    """Write a batch; with its elements."""
    one = events(now, slack).map(lambda raw: raw.strip(b" \t\r\n"))
    found = draw(st.lists(_mostly(one, st.sampled_from(ODD_ELEMENTS), 8), min_size=1, max_size=4))
    blank = draw(_BLANKS).encode()
    return blank + b"[" + blank + (blank + b"," + blank).join(found) + blank + b"]" + blank, found


@st.composite
def large(draw: st.DrawFn, now: datetime, slack: timedelta = timedelta()) -> bytes:
    """Write a message about as large as one may be: in bytes, or in events."""
    body = draw(events(now, slack))
    kind = draw(st.sampled_from(["blanks", "text", "events"]))
    if kind == "events":
        one = body if len(body) < 500 else draw(st.sampled_from([b"{}", b"1"]))
        return b"[" + b",".join([one] * draw(st.sampled_from([999, 1000, 1001]))) + b"]"
    size = MAX_MESSAGE + draw(st.integers(-1, 1))
    if kind == "blanks":
        return body + b" " * (size - len(body))
    body = body.rstrip()[:-1] + b', "pad": "'
    return body + b"x" * (size - len(body) - 2) + b'"}'


@st.composite
def mangled(draw: st.DrawFn, now: datetime, slack: timedelta = timedelta()) -> bytes:
    """Write a message with a few bytes spoiled, in another encoding, or of no grammar at all."""
    body = draw(events(now, slack) | batches(now, slack).map(lambda batch: batch[0]))
    kind = draw(st.sampled_from(["bytes", "bytes", "bytes", "bytes", "encoding", "any", "cut"]))
    if kind == "encoding":
        encoding = draw(st.sampled_from(["utf-16", "utf-8-sig", "utf-32", "latin-1"]))
        return body.decode("utf-8", "replace").encode(encoding, "replace")
    if kind == "any":
        return draw(st.binary(max_size=60) | st.text('[]{}",:\\u0d8 tNa1-', max_size=60).map(str.encode))
    if kind == "cut":
        return body[: draw(st.integers(0, len(body)))]
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(body)))
        end = draw(st.integers(start, min(start + 30, len(body))))
        body = body[:start] + draw(_SPOILERS | st.just(body[start:end] * 2)) + body[end:]
    return body


NOW = datetime(2026, 11, 23, 9, 4, tzinfo=UTC)
