"""A cut from a query's parameters: all that is wrong is named at once, nothing is guessed at."""

from collections.abc import Mapping
from datetime import datetime

from gateway.http.params import Params
from gateway.http.problems import Fault, Problem
from shared.cut import (
    MAX_TAG_LENGTH,
    MAX_WINDOWS,
    MEMBERS,
    METADATA,
    ORDERS,
    Cut,
    groups,
    is_dimension,
    member,
)
from shared.cut_plan import Plan
from shared.kept import DimensionNotKept, Kept
from shared.pieces import NotKept
from shared.usage_event.text import org_id_text
from shared.zones import GRANULARITIES

MAX_VALUES = 100
"""Of one filter."""

MAX_TOP = 100
PLATFORM_TOP = 50
"""Of a question about all organisations, by default."""

_MAX_PARAMETERS = 3 * MAX_VALUES + 20
_DIMENSION_OF = {name: dimension for dimension, name in MEMBERS.items()}


class CutParams:
    """The query of usage and reliability. platform: of all organisations and not of one."""

    def __init__(self, query_string: str, *also: str, platform: bool = False) -> None:
        names = ["start", "end", "granularity", "timeZone", "groupBy", "top", "orderBy", "compare", *also]
        filters = ["modelId", *_DIMENSION_OF, *(["orgId"] if platform else [])]
        self.params = Params(
            query_string,
            *names,
            repeatable=filters,
            prefix=METADATA,
            max_parameters=_MAX_PARAMETERS,
        )
        self._platform = platform

    def cut(self, org_id: str | None, *, minutes: bool) -> Cut:
        """Return the question. minutes: whether it may be asked by the minute. Raises Problem."""
        params = self.params
        start, end = params.time("start"), params.time("end")
        granularities = (*(("minute",) if minutes else ()), *GRANULARITIES)
        granularity = params.choice("granularity", granularities) or "day"
        tz = params.time_zone("timeZone")
        by_org, by_model, grouped = self._groups()
        filtered, values = self._filter(grouped)
        org_ids = (org_id,) if org_id is not None else self._org_ids()
        model_ids = params.texts("modelId", max_length=200, max_values=MAX_VALUES)
        top = params.whole_number(
            "top", min_value=1, max_value=MAX_TOP, default=PLATFORM_TOP if self._platform else 0
        )
        order_by = params.choice("orderBy", ORDERS) or ORDERS[0]
        compare = params.choice("compare", ("previous",)) is not None
        params.fits(start, end, granularity, MAX_WINDOWS)
        params.check()
        assert start is not None  # noqa: S101  check() has raised otherwise
        assert end is not None  # noqa: S101
        return Cut(
            start,
            end,
            granularity,
            tz,
            by_org=by_org,
            by_model=by_model,
            dimension=grouped or filtered or "",
            by_value=grouped is not None,
            org_ids=org_ids,
            model_ids=model_ids,
            values=values,
            top=top or None if by_org or by_model or grouped else None,
            order_by=order_by,
            compare=compare,
        )

    def _groups(self) -> tuple[bool, bool, str | None]:
        """Return whether to group by organisation and by model, and the dimension to group by."""
        text = self.params.text("groupBy", max_length=200)
        if text is None:
            return self._platform, not self._platform, None
        try:
            by_org, by_model, dimension = groups(text, platform=self._platform)
        except ValueError as fault:
            self.params.fault("groupBy", str(fault))
            return False, True, None
        return by_org, by_model, dimension or None

    def _filter(self, grouped: str | None) -> tuple[str | None, tuple[str, ...] | None]:
        """Return the dimension that is filtered by and its values."""
        given = [
            name
            for name in self.params.repeated_names()
            if name in _DIMENSION_OF or name.startswith(METADATA)
        ]
        found = None
        for name in given:
            dimension = _DIMENSION_OF.get(name, name)
            if not is_dimension(dimension):
                self.params.fault(name, "must be metadata.<key> with a key of 1 to 64 of A-Za-z0-9_.-")
            elif name != given[0]:
                self.params.fault(name, f"cannot stand beside {given[0]}: one dimension can be filtered by")
            elif grouped not in {None, dimension}:
                self.params.fault(name, f"cannot stand beside groupBy={grouped}: one dimension at a time")
            else:
                found = dimension
            is_tag = name.startswith(METADATA)  # it may be empty, or longer than what is kept of it
            values = self.params.texts(
                name,
                max_length=16_384 if is_tag else 200,
                max_values=MAX_VALUES,
                min_length=0 if is_tag else 1,
            )
            if found == dimension:
                kept = _as_kept(values) if is_tag else values
        return (found, kept) if found is not None else (None, None)

    def _org_ids(self) -> tuple[str, ...] | None:
        texts = self.params.texts("orgId", max_length=36, max_values=MAX_VALUES)
        try:
            return None if texts is None else tuple(dict.fromkeys(map(org_id_text, texts)))
        except ValueError:
            self.params.fault("orgId", "must be UUIDs of 36 characters with hyphens, and not the nil UUID")
            return None


def _as_kept(values: tuple[str, ...] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(dict.fromkeys(value[:MAX_TAG_LENGTH] for value in values))


def plan_of(cut: Cut, kept: Mapping[str, Kept], now: datetime) -> Plan:
    """Return how a cut is read. Raises Problem 400 where it asks for what is not kept."""
    try:
        return Plan(cut, kept, now)
    except DimensionNotKept as error:
        known = kept.get(cut.dimension)
        if known is not None and known.groupable:
            field = "granularity"
        else:
            field = "groupBy" if cut.by_value else member(cut.dimension)
        raise Problem.invalid([Fault(field=field, reason=str(error))]) from None
    except NotKept as error:
        field = "timeZone" if cut.tz.key != "UTC" else "granularity"
        raise Problem.invalid(
            [Fault(field=field, reason=f"has buckets that are not kept: {error}")]
        ) from None
    except OverflowError:
        early = cut.start.year < now.year
        fault = (
            Fault(field="start", reason="is too early") if early else Fault(field="end", reason="is too late")
        )
        raise Problem.invalid([fault]) from None
