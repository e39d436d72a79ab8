"""Query parameters, strictly: what is unknown, repeated or malformed is named, never guessed at."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import unquote_plus
from zoneinfo import ZoneInfo

from gateway.http.problems import Fault, Faults, Problem
from shared import validators
from shared.zones import ZONE_UTC

T = TypeVar("T")

_MAX_PARAMETERS = 100
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


class Params:
    """A request's query parameters. Faults are gathered; `check` raises them all at once."""

    def __init__(
        self,
        query_string: str,
        *known: str,
        repeatable: Collection[str] = (),
        prefix: str | None = None,
        max_parameters: int = _MAX_PARAMETERS,
    ) -> None:
        """Take a query apart. repeatable: parameters that may be given more than once, as may those whose
        names begin with the prefix.
        """
        self._values: dict[str, str] = {}
        self._repeated: dict[str, list[str]] = {}
        self._faults = Faults()
        pairs = [pair.partition("=") for pair in query_string.split("&") if pair]
        if len(pairs) > max_parameters:
            raise Problem.invalid([Fault(field="", reason=f"more than {max_parameters} parameters")])
        names = [*known, *repeatable, *([] if prefix is None else [f"{prefix}<key>"])]
        for raw_name, _, raw_value in pairs:
            name = raw_name[:100]
            try:
                name, value = _decoded(raw_name), _decoded(raw_value)
            except ValueError:
                self.fault(name, "is not UTF-8 in percent-encoding")
                continue
            if name in repeatable or (prefix is not None and name.startswith(prefix)):
                self._repeated.setdefault(name, []).append(value)
            elif name not in known:
                self.fault(name[:100], f"is not a parameter here; there are {', '.join(names) or 'none'}")
            elif name in self._values:
                self.fault(name, "is given more than once")
            else:
                self._values[name] = value

    @classmethod
    def of(cls, values: Mapping[str, str | None], *known: str) -> "Params":
        """Take values that did not come from a query, such as a command line's; None where one is absent."""
        params = cls("", *known)
        params._values = {name: value for name in known if (value := values[name]) is not None}
        return params

    def fault(self, field: str, reason: str) -> None:
        """Note a fault, unless the field has one already."""
        self._faults.note(field, reason)

    def check(self) -> None:
        """Raise a Problem with every fault noted so far."""
        self._faults.check()

    def text(self, name: str, *, max_length: int) -> str | None:
        """Return a text of 1 to `max_length` characters, None when absent."""
        return self._read(name, validators.text(max_length=max_length))

    def repeated_names(self) -> list[str]:
        """Return the names that may be repeated and are there, in the order of the query."""
        return list(self._repeated)

    def texts(
        self, name: str, *, max_length: int, max_values: int, min_length: int = 1
    ) -> tuple[str, ...] | None:
        """Return each value of a parameter that may be repeated once, None when absent."""
        values = self._repeated.get(name)
        rule = validators.texts(max_values=max_values, max_length=max_length, min_length=min_length)
        return None if values is None else self._faults.read(name, rule, values)

    def choice(self, name: str, choices: Iterable[str]) -> str | None:
        """Return one of the words, None when absent."""
        return self._read(name, validators.choice(choices))

    def whole_number(self, name: str, *, min_value: int, max_value: int, default: int) -> int:
        """Return a whole number from min_value to max_value."""
        found = self._read(name, validators.whole_number(min_value=min_value, max_value=max_value))
        return default if found is None else found

    def time(self, name: str) -> datetime | None:
        """Return a required instant in UTC; None when it is missing or malformed."""
        value = self._values.get(name)
        if value is None:
            self.fault(name, "is missing")
            return None
        hint = "; in a URL write + as %2B" if " " in value else ""
        return self._faults.read(name, validators.time, value, hint=hint)

    def time_zone(self, name: str) -> ZoneInfo:
        """Return a zone by its IANA name, UTC when absent."""
        return self._read(name, validators.time_zone) or ZONE_UTC

    def fits(
        self,
        start: datetime | None,
        end: datetime | None,
        granularity: str | None = None,
        longest: Mapping[str, timedelta] | None = None,
    ) -> None:
        """Note a fault where a window is empty, or longer than the longest of its granularity."""
        if start is None or end is None:
            return
        max_span = longest[granularity] if longest and granularity else None
        try:
            validators.check_window(start, end, max_span=max_span)
        except validators.Invalid as error:
            too_long = f", the most for granularity {granularity}" if start < end else ""
            self.fault("end", f"{error}{too_long}")

    def _read(self, name: str, validator: Callable[[Any], T]) -> T | None:
        value = self._values.get(name)
        return None if value is None else self._faults.read(name, validator, value)


def _decoded(text: str) -> str:
    """Undo percent-encoding. Raises ValueError where urllib would guess."""
    if not text.isascii() or _BAD_ESCAPE.search(text):
        raise ValueError("not in percent-encoding")
    return unquote_plus(text, errors="strict")


def org_id(text: str) -> str:
    """Return an organisation's id from a path, in lower case. Raises Problem."""
    try:
        return validators.org_id(text)
    except validators.Invalid as error:
        raise Problem.invalid([Fault(field="orgId", reason=str(error))]) from None
