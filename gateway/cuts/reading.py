"""Reading a cut: one state of the database, its rows as they are asked for, and an end to every wait."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from decimal import Decimal
from functools import cached_property
from itertools import chain
from typing import Any

from gateway.cuts.parse import plan_of
from gateway.cuts.statements import statement
from gateway.cuts.text import json_text
from gateway.database import GatewayDatabase
from gateway.http.problems import Fault, Problem
from shared.clock import Clock
from shared.cut import Cut, member
from shared.cut_plan import Group, Plan, Read, array
from shared.errors import NumberTooLarge
from shared.kept import KEPT, Kept, fetch_moved, read_kept
from shared.statements import load_statements
from shared.usage_sums import EXACT, Row, merged, usage_rows

MAX_POINTS = 200_000
"""Points of a series in one answer."""

# Texts of all points of a bucket that are held at once: each may have hundreds of points.
_BUCKETS: dict[str, Any] = {"rows_at_once": 50, "as_bytes": True}

MAX_RAW_EVENTS = 3_000_000
"""Raw events that an answer may be made of beside rollups: what can be read within a statement's limit."""

_MAX_GROUPS_IN_ONE_PASS = 50_000
"""Groups of all buckets that PostgreSQL holds at once; where there are more, the largest are found first."""

# PostgreSQL takes three times as long as numpy for percentiles that are not kept.
_FEW_CHANGED = 100
_FEW_CHANGED_SHARE = 10

_SQL = load_statements("cuts.sql")


class Reading:
    """A cut being read. Everything it reads is of one state of the database."""

    def __init__(
        self, cut: Cut, org_id: str | None, database: GatewayDatabase, clock: Clock, opened: ExitStack
    ) -> None:
        """Open it. org_id: the organisation that may be seen, None for all.

        Raises Problem where the cut asks for what is not kept, and DatabaseUnavailable.
        """
        self.org_id = org_id
        self.org_filter = cut.org_ids
        self._database = database.of_all() if org_id is None else database.of(org_id)
        self._open, kept = self._database.begin(opened, KEPT, lambda cur: fetch_moved(cur, cut))
        groups = None
        if cut.org_ids is None or (cut.top is not None and not cut.by_value):
            cut, groups = self._with_orgs(cut)
        self._of_several = kept[""].moves is not None and len(cut.org_ids or ()) > 1
        self.plan = plan_of(cut, kept, clock())
        self._refuse_events(self.plan)
        buckets = len(self.plan.bounds) - 1
        self._in_one_pass = (
            cut.top is not None and groups is not None and groups * buckets <= _MAX_GROUPS_IN_ONE_PASS
        )
        # On a Citus cluster a state of the coordinator's is not one of its nodes'.
        by_two = self.plan.has_many_values and kept[""].moves is None
        self._state = self._open.state() if by_two else None

    def _with_orgs(self, cut: Cut) -> tuple[Cut, int | None]:
        """Name the organisations of a cut, and tell how many groups it has, None where its values tell."""
        asked = None if cut.org_ids is None else list(cut.org_ids)
        [(org_ids, models, pairs)] = self._open.rows(_SQL["known"], {"org_ids": asked})
        if asked is None:
            cut = replace(cut, org_ids=tuple(org_ids or ()))
        if cut.by_value:
            return cut, None
        if cut.by_org:
            return cut, pairs if cut.by_model else len(org_ids or ())
        return cut, models

    @cached_property
    def _winners(self) -> list[Group] | None:
        return self._largest() if self.plan.cut.top is not None else None

    def usage(self, plan: Plan | None = None) -> Iterator[Row]:
        """Yield the rows of `usage`, of another plan where one is given. Raises Problem for too many, and
        where raw events were dropped.
        """
        self._refuse_events(plan)
        if plan is None and self._in_one_pass:
            first, rows = self._sums("usage_of_top", self.plan.at_once())
            _refuse_larger(first[0] if first else 0, self.plan.cut)
            return (
                (bucket, other, org_id, model_id, value, False, 1, sums)
                for _size, bucket, other, org_id, model_id, value, *sums in rows
            )
        begun = [(read, *self._sums("usage", read.parameters)) for read in self._parts(plan)]
        _refuse_larger(sum(first[0] for _, first, _ in begun if first is not None), self.plan.cut)
        return merged([usage_rows(read, rows, self.plan.cut) for read, _, rows in begun])

    def usage_json(self) -> Iterator[tuple[Any, ...]] | None:
        """Return how many groups there are, each bucket's points as JSON, and their sums; None where groups
        must be taken away from others first. Raises Problem for too many, other than of a plain cut.
        """
        plan = self.plan
        if plan.is_plain:
            return self._open.stream(_SQL["plain_usage"], plan.plain(), **_BUCKETS)
        if plan.has_rest and not self._in_one_pass:
            return None
        begins = {"begins": array(plan.buckets), "member": f"{json_text(member(plan.cut.dimension))}:"}
        if self._in_one_pass:
            first, rows = self._sums("usage_of_top_json", plan.at_once() | begins, **_BUCKETS)
        else:
            [read] = plan.reads(None)
            first, rows = self._sums("usage_json", read.parameters | begins, **_BUCKETS)
        _refuse_larger(first[0] if first else 0, plan.cut)
        return rows

    def _sums(
        self, name: str, parameters: dict[str, Any], **form: Any
    ) -> tuple[tuple[Any, ...] | None, Iterator[tuple[Any, ...]]]:
        """Begin a statement that adds up integers; return its first row, None without any, and all rows."""
        try:
            rows = self._open.stream(
                self._statement(name, parameters), parameters, undone_if_too_large=True, **form
            )
            first = next(rows, None)
        except NumberTooLarge:
            rows = self._open.stream(self._statement(name, parameters, wide=True), parameters, **form)
            first = next(rows, None)
        return first, iter(()) if first is None else chain([first], rows)

    def _statement(self, name: str, parameters: dict[str, Any], *, wide: bool = False) -> str:
        return statement(name, parameters, wide=wide, of_several=self._of_several)

    def plain_reliability(self, percentile_at: int | None) -> Iterator[bytes] | None:
        """Return each bucket's points of a plain cut, None where too few percentiles are kept for that.

        percentile_at: the place of the percentile that each point shows besides, in the order of
        latency_histogram.PERCENTILES.
        """
        if not self.plan.is_plain:
            return None
        [(points, changed)] = self._open.rows(_SQL["plain_size"], self.plan.plain())
        if changed > max(_FEW_CHANGED, points // _FEW_CHANGED_SHARE):
            return None
        place = None if percentile_at is None else percentile_at + 1
        parameters = self.plan.plain() | {"percentile_at": place}
        rows = self._open.stream(_SQL["plain_reliability"], parameters, **_BUCKETS)
        return (text for (text,) in rows)

    def reliability(self, plan: Plan | None = None) -> Iterator[Row]:
        """Yield the rows of `reliability`, of another plan where one is given. Raises Problem where raw
        events were dropped.
        """
        self._refuse_events(plan)
        if plan is None and self.plan.is_plain:
            read = Read(self.plan.plain())
            rows = self._open.stream(_SQL["plain_histograms"], read.parameters)
            return _outcome_rows(read, rows, self.plan.cut)
        return merged(
            [
                _outcome_rows(read, self._rows("reliability", read.parameters), self.plan.cut)
                for read in self._parts(plan)
            ]
        )

    def codes(self, plan: Plan | None = None) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of `codes`, of another plan where one is given."""
        if plan is None and self.plan.is_plain:
            return self._open.stream(_SQL["plain_codes"], self.plan.plain())
        return self._rows("codes", (plan or self.plan).codes(None if plan else self._winners))

    def _rows(self, name: str, parameters: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
        return self._open.stream(self._statement(name, parameters, wide=True), parameters)

    def refuse_larger(self) -> None:
        """Raise Problem 400 if the answer would have more points than one may have.

        For statements that do not tell.
        """
        if self.plan.is_plain:
            [(points, _)] = self._open.rows(_SQL["plain_size"], self.plan.plain())
        else:
            points = sum(self._counted(read) for read in self._parts(None))
        _refuse_larger(points, self.plan.cut)

    def _refuse_events(self, plan: Plan | None) -> None:
        """Raise Problem 400 for a plan that needs raw events of dropped days, or too many of them.

        Gone must not look like none. Until the transaction ends no more days can be dropped.
        """
        if plan is None or plan.oldest_event is None:
            return
        [(kept_since,)] = self._open.rows(_SQL["events_kept_since"], {})
        reason = plan.lacks_events(kept_since)
        if reason is not None:
            raise Problem.invalid([Fault(field="start", reason=reason)])
        if (parts := plan.parts_of_hours) is not None:
            [(events,)] = self._open.rows(_SQL["events_to_read"], parts)
            if events > MAX_RAW_EVENTS:
                raise Problem.invalid([Fault(field="timeZone", reason=_too_many_events(events))])
            [(plan.waiting,)] = self._open.rows(_SQL["waiting"], {})

    def _counted(self, read: Read) -> int:
        row = next(self._rows("usage", read.parameters), None)
        return row[0] if row else 0

    def _parts(self, plan: Plan | None) -> list[Read]:
        return self.plan.reads(self._winners) if plan is None else plan.reads(None)

    def _measured(self, name: str, read: Read) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a read of `largest...`. Many values are halved, for two connections."""
        if self._state is None or read.rest:
            return self._sums(name, read.parameters)[1]
        mine, others = (read.parameters | {"half": half} for half in (True, False))
        aside = self._database.aside(self._state, self._statement(name, others), others, first=KEPT)
        rows = list(self._sums(name, mine)[1])
        found = aside.rows()
        return chain(rows, self._sums(name, others)[1] if found is None else found)

    def _largest(self) -> list[Group]:
        """Return the groups of the top, the largest first."""
        found: list[tuple[Decimal, Group]] = []
        left: dict[Group, tuple[int, Decimal]] = {}
        # Citus takes grouping sets of one organisation alone.
        name = "largest_values" if self.plan.is_by_value_alone else "largest"
        for read in self.plan.largest():
            sign = 1 if read.rest else -1
            for is_group, org_id, model_id, value, calls, amount in self._measured(name, read):
                group = org_id, model_id, value
                if is_group:
                    found.append((Decimal(amount), group))
                else:
                    before = left.get(group, (0, Decimal(0)))
                    left[group] = (
                        before[0] + sign * int(calls),
                        EXACT.add(before[1], EXACT.multiply(Decimal(amount), Decimal(sign))),
                    )
        found += [(amount, group) for group, (calls, amount) in left.items() if calls > 0]
        found.sort(key=lambda one: (-one[0], *((text is None, text or "") for text in one[1])))
        return [group for _, group in found[: self.plan.cut.top]]


def _outcome_rows(read: Read, rows: Iterable[tuple[Any, ...]], cut: Cut) -> Iterator[Row]:
    other = read.rest and cut.top is not None
    for bucket, org_id, model_id, value, sign, *figures in rows:
        yield (bucket, other, org_id, model_id, value, read.rest, read.sign * sign, figures)


def kept_dimensions(database: GatewayDatabase) -> list[Kept]:
    """Return what the rollups keep. Raises DatabaseUnavailable."""
    return list(database.snapshot(read_kept).values())


def _refuse_larger(points: int, cut: Cut) -> None:
    """Raise Problem 400 for more points than an answer may have, with what would make them fewer."""
    if points <= MAX_POINTS:
        return
    ways = ["a shorter window"]
    if cut.top is None and (cut.by_value or cut.by_org or cut.by_model):
        ways.append("top=100 or less")
    coarser = {"minute": "hour", "hour": "day", "day": "week or month"}.get(cut.granularity)
    if coarser:
        ways.append(f"granularity={coarser}")
    if cut.by_model and (cut.by_value or cut.by_org):
        ways.append("a groupBy without model")
    if cut.model_ids is None:
        ways.append("a modelId")
    reason = (
        f"this would be up to {points:,} points, more than the {MAX_POINTS:,} that one answer may have; "
        f"fewer come of {', '.join(ways[:-1])} or {ways[-1]}"
    )
    raise Problem.invalid([Fault(field="", reason=reason)])


def _too_many_events(events: int) -> str:
    return (
        f"the answer would read about {events:,} raw events, at most {MAX_RAW_EVENTS:,}: its buckets begin "
        "in the middle of hours of UTC, of which no sums are kept. Ask for a shorter window, for days in "
        "place of hours, or in a zone of full hours"
    )
