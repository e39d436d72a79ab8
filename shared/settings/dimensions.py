"""The dimensions that rollups are kept by, as ROLLUP_DIMENSIONS writes them."""

import re
from dataclasses import dataclass
from datetime import timedelta

from shared.settings.values import Kind, parse_duration, shown

NAMES = ("client", "actor", "apiKey", "provider", "operation")
MAX_DIMENSIONS = 20

_METADATA = re.compile(r"metadata\.[A-Za-z0-9_.-]{1,64}", re.ASCII)


@dataclass(frozen=True)
class KeptDimension:
    """A dimension as an operator wants it. hours_kept: None for as long as its days."""

    name: str
    keeps_hours: bool = True
    hours_kept: timedelta | None = None


def _parse(text: str) -> tuple[KeptDimension, ...]:
    found: list[KeptDimension] = []
    faults: list[str] = []
    for part in text.split(",") if text else ():
        try:
            found.append(_parse_one(part))
        except ValueError as fault:
            faults.append(str(fault))
    names = [each.name for each in found]
    faults += [f"names {name} twice" for name in sorted(set(names)) if names.count(name) > 1]
    if len(found) > MAX_DIMENSIONS:
        faults.append(f"names {len(found)} dimensions; at most {MAX_DIMENSIONS} are kept")
    if faults:
        raise ValueError("; ".join(faults))
    return tuple(found)


def _parse_one(text: str) -> KeptDimension:
    """Parse `client`, `actor:day` or `actor:day:90d`. Raises ValueError."""
    name, *rest = text.split(":")
    if name not in NAMES and not _METADATA.fullmatch(name):
        raise ValueError(f"{shown(text)} names none of {', '.join(NAMES)}, metadata.<key>")
    if not rest:
        return KeptDimension(name)
    if rest == ["day"]:
        return KeptDimension(name, keeps_hours=False)
    if len(rest) == 2 and rest[0] == "day":
        kept = parse_duration(rest[1])
        if not timedelta(days=1) <= kept <= timedelta(days=3650):
            raise ValueError(f"{shown(text)} keeps hours for less than 1d or more than 3650d")
        return KeptDimension(name, hours_kept=kept)
    raise ValueError(f"{shown(text)} is not like name, name:day or name:day:90d")


ROLLUP_DIMENSIONS = Kind(
    _parse, "empty, or comma-separated: a name, `name:day` (no hours), `name:day:90d` (hours for 90 days)"
)
