"""Validators: one rule for each kind of value that a query, a body, a header or a command line may hold.

A validator takes what was given and returns its meaning. It raises Invalid with the reason, a text that
follows the name of the field: "limit" and "must be a whole number from 1 to 200". The caller knows the field:
gateway/http/problems.py gathers the faults of a request, and `argument` is for argparse.
Settings have kinds of their own (shared/settings/values.py), with units and the secrets of URLs.
"""

import argparse
import re
from collections.abc import Callable, Iterable
from datetime import date, datetime, timedelta
from typing import TypeVar
from zoneinfo import ZoneInfo

from shared.usage_event.text import instant, org_id_text, uuid_text
from shared.zones import zone

T = TypeVar("T")

_MAX_DIGITS = 12
_HOUR = timedelta(hours=1)


class Invalid(ValueError):
    """A value that breaks its rule; the message is the reason."""


def text(*, max_length: int, min_length: int = 1) -> Callable[[object], str]:
    """Make the rule for a text of min_length to max_length characters that PostgreSQL can store."""

    def read(value: object) -> str:
        if not isinstance(value, str) or not min_length <= len(value) <= max_length or "\0" in value:
            raise Invalid(f"must be {min_length} to {max_length} characters without NUL")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:  # half a surrogate pair
                raise Invalid("is not UTF-8") from None
        return value

    return read


def texts(*, max_values: int, max_length: int, min_length: int = 1) -> Callable[[object], tuple[str, ...]]:
    """Make the rule for a list of 1 to max_values texts; what is there twice is returned once."""
    one = text(max_length=max_length, min_length=min_length)

    def read(value: object) -> tuple[str, ...]:
        if not isinstance(value, list) or not value:
            raise Invalid(f"must be a list of 1 to {max_values} texts")
        if len(value) > max_values:
            raise Invalid(f"has {len(value)} values; at most {max_values} values are allowed")
        return tuple(dict.fromkeys(map(one, value)))

    return read


def choice(words: Iterable[str]) -> Callable[[object], str]:
    """Make the rule for one of some words, letter by letter."""
    known = tuple(words)

    def read(value: object) -> str:
        if not isinstance(value, str) or value not in known:
            raise Invalid(f"must be one of {', '.join(known)}")
        return value

    return read


def whole_number(*, min_value: int, max_value: int) -> Callable[[str], int]:
    """Make the rule for a whole number in plain ASCII digits, of at most 12 digits."""

    def read(value: str) -> int:
        if value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS:
            number = int(value)
            if min_value <= number <= max_value:
                return number
        raise Invalid(f"must be a whole number from {min_value} to {max_value}")

    return read


def time(value: object) -> datetime:
    """Return an instant in UTC."""
    found, _ = _parsed(instant, value, "must be RFC 3339 with a zone, such as 2026-11-01T00:00:00Z")
    return found


def day(value: str) -> date:
    """Return a day of the years 2000 to 2999. Python's other forms, such as 20261101, are refused."""
    try:
        if re.fullmatch(r"2[0-9]{3}-[0-9]{2}-[0-9]{2}", value, re.ASCII):
            return date.fromisoformat(value)
    except ValueError:
        raise Invalid("is not in the calendar") from None
    raise Invalid("must be a day such as 2026-11-01")


_ZONE_NAME = text(max_length=100)


def time_zone(value: object) -> ZoneInfo:
    """Return the zone of an IANA name."""
    name = _ZONE_NAME(value) if isinstance(value, str) else None
    return _parsed(zone, name, "must be the name of an IANA time zone, such as Asia/Kolkata")


def uuid(value: object) -> str:
    """Return a UUID in lower case."""
    return _parsed(uuid_text, value, "must be a UUID of 36 characters with hyphens")


def org_id(value: object) -> str:
    """Return an organisation's UUID in lower case."""
    return _parsed(org_id_text, value, "must be a UUID of 36 characters with hyphens, and not the nil UUID")


def check_window(start: datetime, end: datetime, *, max_span: timedelta | None = None) -> None:
    """Raise Invalid, about the end, for a window that is empty or longer than max_span."""
    if start >= end:
        raise Invalid("must be later than start")
    if max_span is not None and end - start > max_span:
        span = f"{max_span.days} days" if max_span.days else f"{max_span // _HOUR} hours"
        raise Invalid(f"is more than {span} after start")


def argument(validator: Callable[[str], T]) -> Callable[[str], T]:
    """Make a validator the `type` of an argparse argument, so that the reason reaches whoever typed it."""

    def read(value: str) -> T:
        try:
            return validator(value)
        except Invalid as error:
            raise argparse.ArgumentTypeError(f"{value!r} {error}") from None

    return read


def _parsed(parse: Callable[[str], T], value: object, reason: str) -> T:
    if isinstance(value, str):
        try:
            return parse(value)
        except ValueError:
            pass
    raise Invalid(reason)
