"""Query parameters, strictly: what is unknown, repeated or malformed is named, never guessed at."""

import re
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from urllib.parse import unquote_plus

from gateway.http.problems import Fault, Problem
from shared.buckets import GRAINS
from shared.usage_event.text import instant, org_id_text

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
        self._faults: list[Fault] = []
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
        """Note a fault, unless the field has one already: what cannot be read is not also missing."""
        if all(fault["field"] != field for fault in self._faults):
            self._faults.append(Fault(field=field, reason=reason))

    def check(self) -> None:
        """Raise a Problem with every fault noted so far."""
        if self._faults:
            raise Problem.invalid(self._faults)

    def text(self, name: str, *, max_length: int) -> str | None:
        """Return a text of 1 to `max_length` characters, None when absent."""
        value = self._values.get(name)
        if value is not None and (not 1 <= len(value) <= max_length or "\0" in value):
            self.fault(name, f"must be 1 to {max_length} characters without NUL")
        return value

    def repeated_names(self) -> list[str]:
        """Return the names that may be repeated and are there, in the order of the query."""
        return list(self._repeated)

    def texts(
        self, name: str, *, max_length: int, max_values: int, min_length: int = 1
    ) -> tuple[str, ...] | None:
        """Return each value of a parameter that may be repeated once, None when absent."""
        values = self._repeated.get(name)
        if values is None:
            return None
        if len(values) > max_values:
            self.fault(name, f"is given {len(values)} times; at most {max_values} values are allowed")
        elif any(not min_length <= len(value) <= max_length or "\0" in value for value in values):
            self.fault(name, f"must be {min_length} to {max_length} characters without NUL")
        return tuple(dict.fromkeys(values))

    def choice(self, name: str, choices: Mapping[str, object] | tuple[str, ...]) -> str | None:
        """Return one of the words, None when absent."""
        value = self._values.get(name)
        if value is not None and value not in choices:
            self.fault(name, f"must be one of {', '.join(choices)}")
            return None
        return value

    def whole_number(self, name: str, *, min_value: int, max_value: int, default: int) -> int:
        """Return a whole number from min_value to max_value."""
        value = self._values.get(name)
        if value is None:
            return default
        if not (
            value.isascii() and value.isdigit() and len(value) <= 12 and min_value <= int(value) <= max_value
        ):
            self.fault(name, f"must be a whole number from {min_value} to {max_value}")
            return default
        return int(value)

    def time(self, name: str) -> datetime | None:
        """Return a required instant in UTC; None when it is missing or malformed."""
        value = self._values.get(name)
        if value is None:
            self.fault(name, "is missing")
            return None
        try:
            return instant(value)[0]
        except ValueError:
            hint = "; in a URL write + as %2B" if " " in value else ""
            self.fault(name, f"must be RFC 3339 with a zone, such as 2026-11-01T00:00:00Z{hint}")
            return None

    def fits(
        self,
        start: datetime | None,
        end: datetime | None,
        granularity: str,
        longest: Mapping[str, timedelta],
    ) -> None:
        """Note a fault where a window is empty, or too long for its granularity."""
        if start is None or end is None:
            return
        if start >= end:
            self.fault("end", "must be later than start")
        elif end - start > longest[granularity]:
            span = _in_words(longest[granularity])
            self.fault("end", f"is more than {span} after start, the most for granularity {granularity}")


def _decoded(text: str) -> str:
    """Undo percent-encoding. Raises ValueError where urllib would guess."""
    if not text.isascii() or _BAD_ESCAPE.search(text):
        raise ValueError("not in percent-encoding")
    return unquote_plus(text, errors="strict")


def _in_words(span: timedelta) -> str:
    return f"{span.days} days" if span.days else f"{span // GRAINS['hour']} hours"


def org_id(text: str) -> str:
    """Return an organisation's id from a path, in lower case. Raises Problem."""
    try:
        return org_id_text(text)
    except ValueError:
        reason = "must be a UUID of 36 characters with hyphens, and not the nil UUID"
        raise Problem.invalid([Fault(field="orgId", reason=reason)]) from None
