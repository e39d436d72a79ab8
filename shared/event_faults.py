"""What can be wrong with a usage event, and the thorough examination that names every fault of one.

`shared.events` reads most good events in one go. Whatever it cannot vouch for comes here: events with a
fault, with unknown keys, with names in both spellings.
"""

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from json import JSONDecoder
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from shared.buckets import rfc3339
from shared.errors import AnalyticsError
from shared.event_text import (
    COST_LIMIT,
    MAX_METADATA_BYTES,
    cost_text,
    instant,
    metadata_text,
    org_id_text,
    uuid_text,
)

MAX_AHEAD = timedelta(hours=24)
MAX_AGE = timedelta(days=400)
MAX_TOKENS = 10**12
MAX_LATENCY_MS = 2**31 - 1
MAX_NAME_CHARACTERS = 200
MAX_ERROR_CODE_CHARACTERS = 128

_MAX_UNKNOWN_FAULTS = 20
_MAX_DETAIL_FAULTS = 5


class Reason(StrEnum):
    """Why a message or an event is refused: metric label, log field and x-reason header alike."""

    MESSAGE_TOO_LARGE = "message-too-large"
    BATCH_TOO_LARGE = "batch-too-large"
    EMPTY_BATCH = "empty-batch"
    INVALID_UTF8 = "invalid-utf8"
    INVALID_JSON = "invalid-json"
    NOT_AN_OBJECT = "not-an-object"
    MISSING_FIELD = "missing-field"
    INVALID_FIELD = "invalid-field"
    AMBIGUOUS_FIELD = "ambiguous-field"
    OCCURRED_AT_IN_FUTURE = "occurred-at-in-future"
    OCCURRED_AT_TOO_OLD = "occurred-at-too-old"


class Fault(NamedTuple):
    """One thing that is wrong. field: in camelCase as the contract names it; empty for the whole."""

    field: str
    reason: Reason
    detail: str


class InvalidEvent(AnalyticsError):
    """This message or event can never be stored; it belongs into the dead-letter queue.

    reason: that of the first fault. detail: one line of ASCII that names the first few faults.
    faults: all of them, in the order of the contract's fields; at least one.
    """

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        self.reason = faults[0].reason
        self.detail = "; ".join(fault.detail for fault in faults[:_MAX_DETAIL_FAULTS])
        if len(faults) > _MAX_DETAIL_FAULTS:
            self.detail += f"; and {len(faults) - _MAX_DETAIL_FAULTS} more faults"
        super().__init__(self.detail)

    @classmethod
    def of(cls, reason: Reason, detail: str) -> "InvalidEvent":
        """Refuse the whole message or event."""
        return cls([Fault("", reason, detail)])


_Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARACTERS)]
_ErrorCode = Annotated[str, Meta(min_length=1, max_length=MAX_ERROR_CODE_CHARACTERS)]
_Tokens = Annotated[int, Meta(ge=0, le=MAX_TOKENS)]


class Fields(msgspec.Struct, gc=False):
    """An event's fields as its JSON has them. Types hold what msgspec checks, `RULES` the sentences."""

    event_id: str
    org_id: str
    occurred_at: str
    model_id: _Name
    status: Literal["success", "error", "timeout", "throttled"]
    latency_ms: Annotated[int, Meta(ge=0, le=MAX_LATENCY_MS)]
    input_tokens: _Tokens
    output_tokens: _Tokens
    cost_estimate_cents: Raw
    actor_id: _Name | UnsetType | None = UNSET
    client_id: _Name | UnsetType | None = UNSET
    error_code: _ErrorCode | UnsetType | None = UNSET
    metadata: dict[str, str] | UnsetType | None = UNSET


_UUID_RULE = "a UUID of 36 characters with hyphens"
_TOKENS_RULE = f"an integer from 0 to {MAX_TOKENS}"
_NAME_RULE = f"a string of 1 to {MAX_NAME_CHARACTERS} characters"

RULES = {
    "event_id": _UUID_RULE,
    "org_id": f"{_UUID_RULE}, not the nil UUID",
    "occurred_at": "an RFC 3339 time with Z or an offset, such as 2026-11-23T09:04:00.250Z",
    "model_id": _NAME_RULE,
    "status": "one of success, error, timeout, throttled",
    "latency_ms": f"an integer from 0 to {MAX_LATENCY_MS}",
    "input_tokens": _TOKENS_RULE,
    "output_tokens": _TOKENS_RULE,
    "cost_estimate_cents": f"a number from 0 to below {COST_LIMIT}",
    "actor_id": f"null or {_NAME_RULE}",
    "client_id": f"null or {_NAME_RULE}",
    "error_code": f"null or a string of 1 to {MAX_ERROR_CODE_CHARACTERS} characters",
    "metadata": f"null or an object of strings, at most {MAX_METADATA_BYTES} bytes as compact JSON",
}
"""What each field must be, to end the sentence `latencyMs must be …`."""

# What a field means, where its type does not say it all: equal meanings are equal here.
_MEANINGS: dict[str, Callable[[Any], Any]] = {
    "event_id": uuid_text,
    "org_id": org_id_text,
    "occurred_at": instant,
    "cost_estimate_cents": cost_text,
    "metadata": metadata_text,
}


class _Field(NamedTuple):
    name: str
    camel_name: str
    decoder: msgspec.json.Decoder[Any]
    meaning: Callable[[Any], Any]
    required: bool


def _camel_case(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(other.capitalize() for other in others)


_FIELDS = [
    _Field(
        field.name,
        _camel_case(field.name),
        msgspec.json.Decoder(field.type),
        _MEANINGS.get(field.name, lambda value: value),
        field.required,
    )
    for field in msgspec.structs.fields(Fields)
]
FIELD_BY_SPELLING = {name: field for field in _FIELDS for name in (field.name, field.camel_name)}
"""Fields by both of their names."""

_decode_any = msgspec.json.Decoder(Raw).decode
_decode_string = msgspec.json.Decoder(str).decode
decode_pairs = JSONDecoder(object_pairs_hook=list, parse_int=str, parse_float=str).decode
"""Reads JSON objects as lists of pairs, so that nothing given twice is lost; numbers stay texts."""

_BLANKS = b" \t\n\r"
# An unclosed string is taken to the end of the text, so that no text takes more than one look.
_MARK = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{},]', re.DOTALL)
_MEMBER = re.compile(rb'("[^"\\]*+(?:\\.[^"\\]*+)*+")[ \t\n\r]*:(.*)', re.DOTALL)
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def holds_nul(raw: bytes) -> bool:
    """Whether a JSON text has an escaped NUL character in any of its strings."""
    return _NUL.search(raw) is not None


def text_fault(field: str, raw: bytes) -> Fault | None:
    """Find what no JSON text may hold, whatever its field (empty for a whole event or message)."""
    subject = field or "the text"
    if raw.startswith(b"\xef\xbb\xbf"):
        return Fault(field, Reason.INVALID_JSON, f"{subject} starts with a byte-order mark")
    try:
        raw.decode()  # msgspec does not look into strings it skips
        _decode_any(raw)
    except UnicodeDecodeError as error:
        return Fault(field, Reason.INVALID_UTF8, f"{subject} is not UTF-8 (byte {error.start})")
    except msgspec.DecodeError as error:
        return Fault(field, Reason.INVALID_JSON, f"{subject} is not JSON: {error}")
    except RecursionError:
        return Fault(field, Reason.INVALID_JSON, f"{subject} is nested too deeply")
    if holds_nul(raw):
        return Fault(field, Reason.INVALID_FIELD, f"{subject} holds a NUL character")
    return None


def cut(text: bytes) -> list[bytes]:
    """Cut a JSON array or object at its own commas, whatever its elements or members are.

    Each is yet to be judged, so one that is no JSON does not hide the others. Raises InvalidEvent when
    the brackets do not close at the text's end, or there is nothing before or after a comma.
    """
    depth = 0
    edges: list[int] = []
    for mark in _MARK.finditer(text):
        first = mark[0][0]
        if first in b"[{":
            depth += 1
        elif first in b"]}":
            depth -= 1
        if depth == 0 or (depth == 1 and (first == ord(",") or not edges)):
            edges.append(mark.start())
        if depth == 0:
            break
    outer = bytes(text[edge] for edge in (*edges[:1], *edges[-1:]))
    if depth != 0 or outer not in {b"[]", b"{}"} or text[edges[-1] + 1 :].strip(_BLANKS):
        raise InvalidEvent.of(Reason.INVALID_JSON, "the text is not JSON: its brackets do not match")
    pieces = [text[start + 1 : end].strip(_BLANKS) for start, end in pairwise(edges)]
    if pieces == [b""]:
        return []
    if b"" in pieces:
        raise InvalidEvent.of(Reason.INVALID_JSON, "the text is not JSON: a comma too many")
    return pieces


def examine(raw: bytes, now: datetime) -> Fields:
    """Return the fields of an event that has no fault. Raises InvalidEvent with every fault."""
    if not raw.lstrip(_BLANKS).startswith(b"{"):
        fault = text_fault("", raw)
        raise InvalidEvent([fault or Fault("", Reason.NOT_AN_OBJECT, "an event must be a JSON object")])
    found: dict[str, list[bytes]] = {field.name: [] for field in _FIELDS}
    unknown: list[Fault] = []
    for piece in cut(raw):
        member = _MEMBER.fullmatch(piece)
        if member is None:
            unknown.append(Fault("", Reason.INVALID_JSON, "the text is not JSON: a member without a name"))
            continue
        name_fault = text_fault("", member[1])
        name = "" if name_fault else _decode_string(member[1])
        field = FIELD_BY_SPELLING.get(name)
        if field is not None:
            found[field.name].append(member[2])
        elif fault := name_fault or text_fault(ascii(name)[1:-1][:64], member[2]):
            unknown.append(fault)
    faults: list[Fault] = []
    values = {field.name: _read(field, found[field.name], now, faults) for field in _FIELDS}
    faults += unknown[:_MAX_UNKNOWN_FAULTS]
    if faults:
        raise InvalidEvent(faults)
    return Fields(**values)


def _read(field: _Field, texts: list[bytes], now: datetime, faults: list[Fault]) -> Any:
    """Return a field's value from all the texts given for it, and note its faults."""
    name = field.camel_name
    if not texts:
        if field.required:
            faults.append(Fault(name, Reason.MISSING_FIELD, f"{name} is missing"))
        return UNSET
    value: Any = UNSET
    meanings = []
    for text in texts:
        fault = text_fault(name, text)
        if fault:
            faults.append(fault)
            return UNSET
        try:
            value = field.decoder.decode(text)
            meanings.append(field.meaning(value))
        except ValueError:  # msgspec's errors are ValueErrors too
            sentence = f"{name} must be {RULES[field.name]}"
            faults.append(Fault(name, Reason.INVALID_FIELD, sentence))
            return UNSET
    if any(meaning != meanings[0] for meaning in meanings) or _repeats_a_key(field, texts):
        faults.append(Fault(name, Reason.AMBIGUOUS_FIELD, f"{name} is given twice with different values"))
    elif field.name == "occurred_at":
        faults += _window_faults(meanings[0][0], now)
    return value


def _repeats_a_key(field: _Field, texts: list[bytes]) -> bool:
    """Whether metadata gives a key twice with different values."""
    if field.name != "metadata":
        return False
    pairs = [decode_pairs(text.decode()) or () for text in texts]
    return any(len(set(given)) != len(dict(given)) for given in pairs)


def _window_faults(occurred_at: datetime, now: datetime) -> list[Fault]:
    if occurred_at - now > MAX_AHEAD:
        reason, side = Reason.OCCURRED_AT_IN_FUTURE, "more than 24 hours ahead of"
    elif now - occurred_at > MAX_AGE:
        reason, side = Reason.OCCURRED_AT_TOO_OLD, "more than 400 days before"
    else:
        return []
    detail = f"occurredAt is {rfc3339(occurred_at)}, {side} the time of receipt, {rfc3339(now)}"
    return [Fault("occurredAt", reason, detail)]
