"""What can be wrong with a usage event, and the thorough examination that names every fault of one.

`shared.events` reads good events in one go. Whatever it cannot vouch for comes here: events with a
fault, a field given twice, names in both spellings, texts that are no strict JSON.
"""

import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from enum import StrEnum
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

_MAX_UNKNOWN_KEY_FAULTS = 20
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
    actor_id: _Name | None | UnsetType = UNSET
    client_id: _Name | None | UnsetType = UNSET
    error_code: _ErrorCode | None | UnsetType = UNSET
    metadata: dict[str, str] | None | UnsetType = UNSET


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
_MEANINGS: dict[str, Callable[[Any], object]] = {
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
    meaning: Callable[[Any], object]
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
pairs_decoder = JSONDecoder(object_pairs_hook=list, parse_int=str, parse_float=str)
"""Reads JSON objects as lists of pairs, so that nothing given twice is lost; numbers stay texts."""

_scan = JSONDecoder(parse_int=str, parse_float=str).raw_decode
_WHITESPACE = re.compile(r"[ \t\n\r]*")
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_NEARLY_JSON = re.compile(rb"NaN|Infinity|\\(?:u[dD][89a-fA-F][0-9a-fA-F]{2}|.)", re.DOTALL)


def masked(raw: bytes) -> bytes:
    """Return a text of the same length without the two things that make nearly-JSON no JSON.

    NaN and Infinity, which Python's encoder writes, become digits, and each half of a surrogate pair
    becomes an `A`. So one bad value can be pinned to its field, and one bad event to its place in a
    batch. What is found so must be judged by its own text.
    """
    return _NEARLY_JSON.sub(_masked_match, raw)


def _masked_match(match: re.Match[bytes]) -> bytes:
    found = match[0]
    if found[0] != ord("\\"):
        return b"1" * len(found)
    return b"\\u0041" if len(found) > 2 else found


def holds_nul(raw: bytes) -> bool:
    """Whether a JSON text has an escaped NUL character in any of its strings."""
    return _NUL.search(raw) is not None


def json_fault(raw: bytes, error: Exception) -> InvalidEvent:
    """Say why a text is no JSON. error: what its decoder raised."""
    if raw.startswith(b"\xef\xbb\xbf"):
        return InvalidEvent.of(Reason.INVALID_JSON, "starts with a byte-order mark")
    if isinstance(error, RecursionError):
        return InvalidEvent.of(Reason.INVALID_JSON, "arrays or objects are nested too deeply")
    try:
        raw.decode()
    except UnicodeDecodeError as utf8_error:
        return InvalidEvent.of(Reason.INVALID_UTF8, f"is not UTF-8 (byte {utf8_error.start})")
    return InvalidEvent.of(Reason.INVALID_JSON, str(error))


def examine(raw: bytes, now: datetime) -> Fields:
    """Return the fields of an event that has no fault.

    Raises InvalidEvent with every fault.
    """
    shape = masked(raw)
    try:
        _decode_any(shape)
        if not shape.lstrip().startswith(b"{"):
            raise InvalidEvent.of(Reason.NOT_AN_OBJECT, "an event must be a JSON object")
        # Latin-1 has one character for each byte, so that places in the text are places in the bytes.
        members = list(_members(shape.decode("latin-1")))
    except (msgspec.DecodeError, RecursionError) as error:
        raise json_fault(raw, error) from error
    found: dict[str, list[bytes]] = {field.name: [] for field in _FIELDS}
    unknown: dict[str, Fault] = {}
    for name, value in members:
        field = _field_named(raw[name])
        if field is not None:
            found[field.name].append(raw[value])
        elif len(unknown) < _MAX_UNKNOWN_KEY_FAULTS:
            fault = _text_fault(_shown(raw[name]), raw[name]) or _text_fault(_shown(raw[name]), raw[value])
            if fault:
                unknown[fault.field] = fault
    faults: list[Fault] = []
    values = {field.name: _read(field, found[field.name], now, faults) for field in _FIELDS}
    faults += unknown.values()
    if faults:
        raise InvalidEvent(faults)
    return Fields(**values)


def _members(text: str) -> Iterator[tuple[slice, slice]]:
    """Yield where the name and the value of each member of a valid JSON object stand."""
    position = _after_whitespace(text, text.index("{") + 1)
    while text[position] != "}":
        name_start = _after_whitespace(text, position)
        _, name_end = _scan(text, name_start)
        value_start = _after_whitespace(text, _after_whitespace(text, name_end) + 1)
        _, value_end = _scan(text, value_start)
        yield slice(name_start, name_end), slice(value_start, value_end)
        position = _after_whitespace(text, value_end)
        if text[position] == ",":
            position += 1


def _after_whitespace(text: str, position: int) -> int:
    match = _WHITESPACE.match(text, position)
    return match.end() if match else position


def _field_named(raw_name: bytes) -> _Field | None:
    try:
        return FIELD_BY_SPELLING.get(_decode_string(raw_name))
    except ValueError:
        return None


def _shown(raw_name: bytes) -> str:
    """Return the name of an unknown key fit for a header: printable ASCII, not long."""
    return raw_name[1:-1][:64].decode("ascii", "backslashreplace")


def _text_fault(name: str, raw: bytes) -> Fault | None:
    """Find what no text of an event may hold, whatever its field."""
    try:
        raw.decode()
        _decode_any(raw)
    except UnicodeDecodeError:
        return Fault(name, Reason.INVALID_UTF8, f"{name} is not UTF-8")
    except msgspec.DecodeError:
        return Fault(name, Reason.INVALID_FIELD, f"{name} holds half a surrogate pair, NaN or Infinity")
    if holds_nul(raw):
        return Fault(name, Reason.INVALID_FIELD, f"{name} holds a NUL character")
    return None


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
        fault = _text_fault(name, text)
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
    pairs = [pairs_decoder.decode(text.decode()) or () for text in texts]
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
