"""A plain reading of what a usage event is, from the contract's section 1, to hold the service against.

The standard library's JSON, regular expressions and integers, and nothing of the service. Slow, and simple.
"""

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

Stored = dict[str, Any]
"""What is stored of an event: texts, whole numbers, metadata as a dictionary; None for nothing."""
Faults = list[tuple[str, str]]
"""Fields and reasons, in the contract's order."""

NOT_JSON: Faults = [("", "not JSON")]
"""The text is no JSON; where exactly it is at fault is not said here."""

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:Z|([+-])(\d\d):(\d\d))",
    re.IGNORECASE | re.ASCII,
)
_NUMBER = re.compile(r"(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?)(\d+))?", re.ASCII)
_LONE = re.compile("[\ud800-\udfff]")


class Whole(str):
    """A number without fraction and exponent, as it was written."""

    __slots__ = ()


class Broken(str):
    """Any other number, as it was written."""

    __slots__ = ()


class Pairs(list[tuple[str, Any]]):
    """An object as it was written: a name may come twice."""


class Refused(Exception):
    """The value breaks its rule."""


def read_json(raw: bytes) -> Any:
    """Return a text's value with nothing lost. Raises ValueError or RecursionError where it is no JSON."""

    def no_number(name: str) -> None:
        raise ValueError(name)

    return json.loads(
        raw.decode("utf-8"),
        object_pairs_hook=Pairs,
        parse_int=Whole,
        parse_float=Broken,
        parse_constant=no_number,
    )


def read_event(raw: bytes, now: datetime) -> Stored | Faults:
    """Return what is stored of an event, or what is wrong with it."""
    try:
        value = read_json(raw)
    except (ValueError, RecursionError):
        return NOT_JSON
    if not isinstance(value, Pairs):
        found = _text_reason(value)
        return [("", found or "not-an-object")]
    given: dict[str, list[Any]] = {name: [] for name in RULES}
    others: Faults = []
    for name, text in value:
        known = _NAMES.get(name)
        if known is not None:
            given[known].append(text)
        elif (reason := _text_reason(name)) is not None:
            others.append(("", reason))
        elif (reason := _text_reason(text)) is not None:
            others.append((ascii(name)[1:-1][:64], reason))
    stored: Stored = {}
    faults: Faults = []
    for name, texts in given.items():
        reason, stored[name] = _read_field(name, texts)
        if reason is not None:
            faults.append((name, reason))
    at_fault = dict(faults)
    if "occurredAt" not in at_fault:
        faults += _too_far(stored["occurredAt"], now)
        faults.sort(key=lambda fault: list(RULES).index(fault[0]))
    faults += _parts(stored, at_fault)
    faults += others[:20]
    return faults or stored


def _read_field(name: str, texts: list[Any]) -> tuple[str | None, Any]:
    """Return what is wrong with a field, and what it means."""
    rule, required = RULES[name]
    if not texts:
        return ("missing-field", None) if required else (None, NOTHING.get(name))
    meanings = []
    for text in texts:
        reason = _text_reason(text)
        if reason is not None:
            return reason, None
        try:
            meanings.append(NOTHING.get(name) if text is None and not required else rule(text))
        except Refused:
            return "invalid-field", None
    differ = any(meaning != meanings[0] for meaning in meanings)
    if differ or (name == "metadata" and any(_says_both(text) for text in texts)):
        return "ambiguous-field", None
    return None, meanings[0]


def _says_both(metadata: Any) -> bool:
    """Whether a key is there twice with different values."""
    return metadata is not None and len(set(metadata)) != len(dict(metadata))


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, Pairs):
        for name, inner in value:
            yield name
            yield from _texts_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts_in(inner)
    elif isinstance(value, str):
        yield value


def _text_reason(value: Any) -> str | None:
    """Return what is wrong with a value whatever it stands for: half a surrogate pair, a NUL."""
    texts = list(_texts_in(value))
    if any(_LONE.search(text) for text in texts):
        return "invalid-json"
    return "invalid-field" if any("\0" in text for text in texts) else None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not isinstance(value, Whole | Broken)


def _text(longest: int) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if not _is_text(value) or not 1 <= len(value) <= longest:
            raise Refused
        return str(value)

    return read


def _whole(largest: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if not isinstance(value, Whole) or len(value) > 15 or not 0 <= int(value) <= largest:
            raise Refused
        return int(value)

    return read


def _uuid(value: Any) -> str:
    if not _is_text(value) or not _UUID.fullmatch(value):
        raise Refused
    return str(value.lower())


def _org_id(value: Any) -> str:
    if not set(_uuid(value)) - set("0-"):
        raise Refused
    return _uuid(value)


def _status(value: Any) -> str:
    if not _is_text(value) or value not in ("success", "error", "timeout", "throttled"):
        raise Refused
    return str(value)


def _occurred_at(value: Any) -> datetime:
    found = _TIME.fullmatch(value) if _is_text(value) else None
    if found is None:
        raise Refused
    *numbers, fraction, sign, hours, minutes = found.groups()
    offset = timedelta()
    if sign is not None:
        if int(hours) > 23 or int(minutes) > 59:
            raise Refused
        offset = timedelta(hours=int(hours), minutes=int(minutes)) * (-1 if sign == "-" else 1)
    microseconds = int(((fraction or "") + "000000")[:6])
    try:
        return datetime(*map(int, numbers), microseconds, tzinfo=UTC) - offset  # type: ignore[misc,arg-type]
    except (ValueError, OverflowError):
        raise Refused from None


def _cost(value: Any) -> int:
    """Return a cost in units of the tenth decimal."""
    found = _NUMBER.fullmatch(value) if isinstance(value, Whole | Broken) else None
    if found is None:
        raise Refused
    minus, whole, fraction, exponent_sign, exponent = found.groups()
    digits = int(whole + (fraction or ""))
    if len(exponent or "") > 18:
        raise Refused
    power = int(exponent or 0) * (-1 if exponent_sign == "-" else 1) - len(fraction or "") + 10
    if digits == 0:
        return 0
    if minus or len(str(digits)) + power > 23:
        raise Refused
    if power >= 0:
        units: int = digits * 10**power
        if units >= 10**22:
            raise Refused
        return units
    if len(str(digits)) + power < 0:
        return 0
    half: int = 10**-power
    units, rest = divmod(digits, half)
    if units >= 10**22:
        raise Refused
    up = 2 * rest > half or (2 * rest == half and units % 2 == 1)
    return units + int(up)


def _metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, Pairs) or not all(_is_text(text) for _, text in value):
        raise Refused
    found = dict(value)
    if len(json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()) > 16 * 1024:
        raise Refused
    return found


def _too_far(occurred_at: datetime, now: datetime) -> Faults:
    if occurred_at > now + timedelta(hours=24):
        return [("occurredAt", "occurred-at-in-future")]
    if occurred_at < now - timedelta(days=400):
        return [("occurredAt", "occurred-at-too-old")]
    return []


def _parts(stored: Stored, at_fault: dict[str, str]) -> Faults:
    """Find the parts that are larger than their wholes, of those that have no other fault."""

    def amount(name: str) -> int | None:
        found: int | None = None if name in at_fault else stored[name]
        return found

    faults: Faults = []
    for part, whole in (
        ("cachedInputTokens", "inputTokens"),
        ("cacheWriteInputTokens", "inputTokens"),
        ("reasoningTokens", "outputTokens"),
        ("timeToFirstTokenMs", "latencyMs"),
    ):
        larger, limit = amount(part), amount(whole)
        if larger is not None and limit is not None and larger > limit:
            faults.append((part, "invalid-field"))
    read, written, limit = (
        amount(name) for name in ("cachedInputTokens", "cacheWriteInputTokens", "inputTokens")
    )
    if not faults and None not in {read, written, limit} and (read or 0) + (written or 0) > (limit or 0):
        faults.append(("cachedInputTokens", "invalid-field"))
    return faults


_TOKENS, _MS = _whole(10**12), _whole(2**31 - 1)
RULES: dict[str, tuple[Callable[[Any], Any], bool]] = {
    "eventId": (_uuid, True),
    "orgId": (_org_id, True),
    "occurredAt": (_occurred_at, True),
    "modelId": (_text(200), True),
    "status": (_status, True),
    "latencyMs": (_MS, True),
    "inputTokens": (_TOKENS, True),
    "outputTokens": (_TOKENS, True),
    "costEstimateCents": (_cost, True),
    "actorId": (_text(200), False),
    "clientId": (_text(200), False),
    "errorCode": (_text(128), False),
    "metadata": (_metadata, False),
    "provider": (_text(100), False),
    "operation": (_text(64), False),
    "apiKeyId": (_text(200), False),
    "cachedInputTokens": (_TOKENS, False),
    "cacheWriteInputTokens": (_TOKENS, False),
    "reasoningTokens": (_TOKENS, False),
    "timeToFirstTokenMs": (_MS, False),
}
"""By field: its rule, and whether it must be there."""

NOTHING: dict[str, Any] = {"metadata": {}}
"""What null means, where it does not mean nothing."""


def snake(name: str) -> str:
    """Return a field's other spelling."""
    return re.sub("[A-Z]", lambda capital: f"_{capital[0].lower()}", name)


_NAMES = {spelling: name for name in RULES for spelling in (name, snake(name))}
