"""What a setting's text may be: each kind of value says what it allows and turns text into a value.

A fault is a ValueError whose text reads on from the setting's name. It shows a value only where that cannot
be a secret.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

MAX_CHARACTERS = 8192
"""The longest text of a setting. A URL with certificates' paths has some hundreds."""

_MAX_SHOWN_CHARACTERS = 60
_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)", re.ASCII)
_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_NAME_MAX_BYTES = 255


@dataclass(frozen=True)
class Kind:
    """A kind of value. parse raises ValueError; allowed is what the table of settings says of it.

    mask: shows of a secret's text, which parse takes, only what the log may hold.
    """

    parse: Callable[[str], Any]
    allowed: str
    mask: Callable[[str], str] = lambda _text: "***"


def check_text(text: str) -> None:
    """Refuse what no setting can mean: control characters, bytes that are not UTF-8, outer white space."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"has {len(text):,} characters; at most {MAX_CHARACTERS:,} are read")
    categories = {unicodedata.category(character) for character in text}
    if "Cs" in categories:  # how Python shows the bytes it could not decode
        raise ValueError("has bytes that are not UTF-8")
    if categories & {"Cc", "Zl", "Zp"}:
        raise ValueError("has a line break or another control character")
    if text != text.strip():
        raise ValueError("begins or ends with white space")


def shown(text: str) -> str:
    """Return a value as an error may show it: short, on one line, not at all if it may hold a password."""
    if "@" in text:
        return "its value"
    return ascii(text if len(text) <= _MAX_SHOWN_CHARACTERS else text[:_MAX_SHOWN_CHARACTERS] + "...")


def parse_duration(text: str) -> timedelta:
    """Parse `500ms`, `30s`, `5m`, `24h` or `90d`. Raises ValueError."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{shown(text)} is not a duration such as 500ms, 30s, 5m, 24h or 90d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def duration(shortest: str, longest: str) -> Kind:
    """Durations from shortest to longest, both allowed."""
    low, high = parse_duration(shortest), parse_duration(longest)

    def parse(text: str) -> timedelta:
        value = parse_duration(text)
        if not low <= value <= high:
            raise ValueError(f"{shown(text)} is not from {shortest} to {longest}")
        return value

    return Kind(parse, f"`{shortest}` to `{longest}`")


def optional(kind: Kind) -> Kind:
    """A value of this kind, or nothing (None)."""
    return replace(kind, parse=lambda text: kind.parse(text) if text else None)


def whole_number(low: int, high: int) -> Kind:
    """Decimal integers from low to high, both allowed."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", text, re.ASCII) or not low <= int(text) <= high:
            raise ValueError(f"{shown(text)} is not a whole number from {low} to {high}")
        return int(text)

    return Kind(parse, f"{low} to {high}")


def _parse_switch(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise ValueError(f"{shown(text)} is neither true nor false")
    return text.lower() == "true"


SWITCH = Kind(_parse_switch, "`true`, `false`")


def one_of(*choices: str) -> Kind:
    """Exactly these words."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"{shown(text)} is none of {', '.join(choices)}")
        return text

    return Kind(parse, ", ".join(f"`{choice}`" for choice in choices))


def _parse_key(text: str) -> str:
    if not re.fullmatch(r"[!-~]{1,1024}", text):
        raise ValueError("is not 1 to 1,024 printable ASCII characters without a space")
    return text


ACCESS_KEY = Kind(_parse_key, "printable ASCII")


def _parse_queue(text: str) -> str:
    size = len(text.encode())
    if size > _NAME_MAX_BYTES:
        raise ValueError(f"has {size} bytes; RabbitMQ takes names of at most {_NAME_MAX_BYTES}")
    if text.startswith("amq."):
        raise ValueError(f"{shown(text)} begins with amq., which RabbitMQ keeps for itself")
    return text


def _parse_exchange(text: str) -> str:
    return text if text == "amq.topic" else _parse_queue(text)


QUEUE = Kind(_parse_queue, f"at most {_NAME_MAX_BYTES} bytes, not `amq.…`")
EXCHANGE = Kind(_parse_exchange, f"at most {_NAME_MAX_BYTES} bytes, not `amq.…` but `amq.topic`")
