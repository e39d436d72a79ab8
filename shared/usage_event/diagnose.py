"""The thorough examination of an event, which names every fault of one.

`decode` reads most good events in one go. Whatever it cannot vouch for comes here: events with a fault, with
unknown keys, with names in both spellings.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from itertools import pairwise
from json import JSONDecoder
from typing import Any

import msgspec
from msgspec import UNSET, Raw

from shared.buckets import rfc3339
from shared.usage_event.schema import (
    FIELD_BY_SPELLING,
    FIELDS,
    MAX_AGE,
    MAX_AHEAD,
    PARTS,
    RULES,
    Fault,
    Field,
    Fields,
    InvalidEvent,
    Reason,
)

_MAX_UNKNOWN_FAULTS = 20


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


def cut(text: bytes, max_pieces: int | None = None) -> list[bytes]:
    """Cut a JSON array or object at its own commas, whatever its elements or members are.

    Each is yet to be judged, so one that is no JSON does not hide the others. Raises InvalidEvent when
    the brackets do not close at the text's end, there is nothing before or after a comma, or as soon as there
    are more than max_pieces.
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
            if max_pieces is not None and len(edges) > max_pieces + 1:
                detail = f"the array has more than {max_pieces} events"
                raise InvalidEvent.of(Reason.BATCH_TOO_LARGE, detail)
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
    found: dict[str, list[bytes]] = {field.name: [] for field in FIELDS}
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
    values = {field.name: _read(field, found[field.name], now, faults) for field in FIELDS}
    faults += _part_faults(values)
    faults += unknown[:_MAX_UNKNOWN_FAULTS]
    if faults:
        raise InvalidEvent(faults)
    return Fields(**values)


def _part_faults(values: Mapping[str, Any]) -> list[Fault]:
    """Find the parts that are larger than their wholes. values: by field; UNSET where absent or at fault."""
    known = {name: value for name, value in values.items() if isinstance(value, int)}
    faults = [
        _part_fault(part, f"{known[part]}, more than", whole, known[whole])
        for part, whole in PARTS.items()
        if part in known and whole in known and known[part] > known[whole]
    ]
    read, write, whole = "cached_input_tokens", "cache_write_input_tokens", "input_tokens"
    if not faults and {read, write, whole} <= set(known) and known[read] + known[write] > known[whole]:
        together = f"{known[read]}, and with cacheWriteInputTokens, {known[write]}, more than"
        faults.append(_part_fault(read, together, whole, known[whole]))
    return faults


def _part_fault(part: str, what: str, whole: str, amount: int) -> Fault:
    name, whole_name = FIELD_BY_SPELLING[part].camel_name, FIELD_BY_SPELLING[whole].camel_name
    return Fault(name, Reason.INVALID_FIELD, f"{name} is {what} {whole_name}, {amount}")


def _read(field: Field, texts: list[bytes], now: datetime, faults: list[Fault]) -> Any:
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
        return UNSET
    if field.name == "occurred_at":
        faults += _window_faults(meanings[0][0], now)
    return value


def _repeats_a_key(field: Field, texts: list[bytes]) -> bool:
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
