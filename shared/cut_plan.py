"""What a cut reads: the parameters of the statements in sql/cuts.sql.

What has no value, and what is not in the top, is stored nowhere: it is what is left of the sums by model when
the groups are taken away. So such a cut reads two kinds of rows, those of its groups and those that they are
taken from (`rest`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from shared.buckets import rfc3339
from shared.cut import Cut
from shared.kept import Kept, check_kept, in_words
from shared.pieces import DAY_MINUTES, HALF_HOURS, HALF_MINUTES, HOUR_MINUTES, NotKept, Piece, pieces
from shared.statements import load_statements
from shared.zones import boundaries, local_text, previous

RAW = 0
"""The grain of pieces that are raw events of [low, high)."""

ERROR_CODE = "errorCode"

_NIL = "00000000-0000-0000-0000-000000000000"
_MINUTE = timedelta(minutes=1)
_LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)

Group = tuple[str | None, str | None, str | None]
"""An organisation, a model and a value: None where the cut does not group by it, or there is no value."""


class Read(NamedTuple):
    """One statement of a cut. rest: its rows are what groups are to be taken from; sign: -1 if they are to be
    taken away themselves.
    """

    parameters: dict[str, Any]
    rest: bool = False
    sign: int = 1


def cuts_of_several() -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Return the statements of sql/cuts.sql for several organisations of a Citus cluster.

    With the first Citus adds up on the nodes; they read no raw events. Those come to the coordinator, by the
    second.
    """
    where = "where_of_several"
    on_nodes = load_statements(
        "cuts.sql",
        stored="stored_on_nodes",
        texts="texts_on_nodes",
        measured="measured_on_nodes",
        where=where,
    )
    return on_nodes, load_statements("cuts.sql", where=where)


class Plan:
    """How a cut is read, given what is kept.

    bounds: the buckets' boundaries, in UTC. before: the plan of the totals of the window before, where it is
    asked for. begins: the begin of all that is answered, that window included. waiting: what the statement of
    that name found; whoever reads a plan that has parts_of_hours sets it.
    Raises NotKept where boundaries are none of kept sums, DimensionNotKept, and OverflowError near the
    calendar's ends.
    """

    def __init__(self, cut: Cut, kept: Mapping[str, Kept], now: datetime) -> None:
        self.cut = cut
        self.kept = kept
        self._now = now
        check_kept(cut, kept)
        dimension = kept.get(cut.dimension, kept[""])
        self.bounds = cut.boundaries(keeps_hours=dimension.keeps_hours)
        self.begins = previous(self.start, self.end, cut.tz) if cut.compare else self.start
        local_text(self.begins, cut.tz)  # may be before the calendar of its zone
        self.waiting: str | None = None
        self._pieces: dict[str, list[Piece]] = {}
        if not self.is_plain:  # else they are whole hours or days, and are needed only as rows
            for name in {cut.dimension, ""}:
                self._pieces_of(name)
        self.before: Plan | None = self.of_window(self.begins, self.start) if cut.compare else None

    @property
    def start(self) -> datetime:
        """The begin of the widened window, in UTC."""
        return self.bounds[0]

    @property
    def end(self) -> datetime:
        """The end of the widened window, in UTC, not included."""
        return self.bounds[-1]

    @property
    def buckets(self) -> list[str]:
        """The texts of the buckets' begins; that of a month, also where the window begins within it."""
        begins = self.bounds[:-1]
        if self.cut.part_months:
            begins[0] = boundaries(begins[0], self.end, "month", self.cut.tz)[0]
        return [local_text(at, self.cut.tz) for at in begins]

    @property
    def kept_since(self) -> datetime:
        """Since when retention has left the rollups that are read; of earlier ones none is read."""
        names = {self.cut.dimension, "", ERROR_CODE}
        found = [each.kept_since for each in self.kept.values() if each.name in names and each.kept_since]
        return max(found, default=_LONG_AGO)

    def complete_since(self) -> datetime | None:
        """Return since when the cut's dimension is complete and rollups are kept, None when all is there.

        Of rollups that retention removed this names only where what is read begins before them.
        """
        found = [self.kept[self.cut.dimension].complete_since] if self.cut.dimension else []
        if self.begins < self.kept_since and self.cut.granularity != "minute":
            found.append(self.kept_since)
        return max(filter(None, found), default=None)

    def details_complete_since(self) -> datetime | None:
        """Return since when all that is read has the sums that 0.1.0 did not know: parts of tokens, times to
        first token, speeds. None where all of it has them.
        """
        since = self.kept[""].complete_since
        return since if since is not None and self.begins < since else None

    @property
    def oldest_event(self) -> datetime | None:
        """The begin of what is read from raw events, None where sums are enough."""
        found = [piece.low for pieces in self._pieces.values() for piece in pieces if piece.grain == RAW]
        return min(found, default=None)

    @property
    def parts_of_hours(self) -> dict[str, Any] | None:
        """The parameters of `events_to_read`, None where sums are enough, or where minutes are asked for."""
        raw = {
            (piece.low, piece.high)
            for found in self._pieces.values()
            for piece in found
            if piece.grain == RAW and self.cut.granularity != "minute"
        }
        if not raw:
            return None
        lows, highs = zip(*sorted(raw), strict=True)
        return {"org_ids": self.cut.org_ids or (_NIL,), "lows": list(lows), "highs": list(highs)}

    def lacks_events(self, kept_since: datetime | None) -> str | None:
        """Say what raw events it needs that were dropped, None where it needs none of those.

        kept_since: since when all are kept, None for always. Gone must not look like none.
        """
        if kept_since is None or self.oldest_event is None or self.oldest_event >= kept_since:
            return None
        return (
            "begins before the raw events that are kept, which minutes and hours that do not begin with "
            f"an hour of UTC are read from; the oldest are of {rfc3339(kept_since)}"
        )

    @property
    def has_valueless(self) -> bool:
        """Return whether events without the value form a group."""
        return self.cut.by_value and self.cut.values is None

    @property
    def has_rest(self) -> bool:
        """Return whether rows come from which the groups are to be taken away."""
        return self.cut.top is not None or self.has_valueless

    @property
    def is_by_value_alone(self) -> bool:
        """Return whether the groups are the values of one organisation."""
        cut = self.cut
        one_org = cut.org_ids is not None and len(cut.org_ids) == 1
        return one_org and (cut.by_org, cut.by_model, cut.by_value) == (False, False, True)

    @property
    def has_many_values(self) -> bool:
        """Return whether the largest are to be found among what may be hundreds of thousands of values: such
        are those of which no hours are kept.
        """
        cut = self.cut
        is_asked = self.is_by_value_alone and cut.top is not None and cut.values is None
        return is_asked and not self.kept[cut.dimension].keeps_hours

    @property
    def is_plain(self) -> bool:
        """Return whether each stored row of one organisation is a point as it stands."""
        cut = self.cut
        return (
            cut.granularity in {"hour", "day"}
            and cut.tz.key == "UTC"
            and (cut.by_org, cut.by_model, cut.dimension, cut.top) == (False, True, "", None)
            and cut.org_ids is not None
            and len(cut.org_ids) == 1
            and self.kept[""].days_until is None
            and self.start >= self.kept_since
        )

    def plain(self) -> dict[str, Any]:
        """Return the parameters of the plain statements."""
        assert self.cut.org_ids is not None  # noqa: S101  is_plain says so
        return {
            "org_id": self.cut.org_ids[0],
            "grain": HOUR_MINUTES if self.cut.granularity == "hour" else DAY_MINUTES,
            "start": self.start,
            "end": self.end,
            "model_ids": _listed(self.cut.model_ids),
        }

    def of_window(self, start: datetime, end: datetime) -> "Plan":
        """Return the plan of the totals of another window, whose ends are boundaries of this one's kind."""
        cut = self.cut
        dimension = cut.dimension if cut.values is not None else ""
        granularity = "minute" if cut.granularity == "minute" else "total"
        total = replace(
            cut, start=start, end=end, granularity=granularity, by_org=False, by_model=False, by_value=False,
            dimension=dimension, top=None,
        )  # fmt: skip
        plan = Plan.__new__(Plan)
        plan.cut, plan.kept, plan._now = total, self.kept, self._now
        plan.bounds, plan.begins, plan.before, plan._pieces = [start, end], start, None, {}
        plan.waiting = self.waiting
        plan._pieces_of(dimension)
        return plan

    def largest(self) -> list[Read]:
        """Return the reads of `largest` (or `largest_...`): the groups, and what those without a value are
        left of (rest).
        """
        cut = self.cut
        more = {"order_by": cut.order_by, "with_sums": self.has_valueless, "top": cut.top, "half": None}
        found = [Read(self._of_whole_window(cut.dimension, self._by(cut.by_value)) | more)]
        if self.has_valueless:
            base = self._of_whole_window("", self._by(False))
            found.append(Read(base | more | {"top": 0}, rest=True))
        return found

    def _of_whole_window(self, dimension: str, by: tuple[bool, bool, bool]) -> dict[str, Any]:
        """Return the parameters of a statement whose one bucket is the window, its days named apart."""
        window = self.of_window(self.start, self.end)
        days = [piece for piece in window._pieces_of(dimension) if piece.grain == DAY_MINUTES]
        return window._parameters(dimension, by) | {
            "with_days": False,
            "whole_days": bool(days),
            "first_day": min((piece.low for piece in days), default=None),
            "last_day": max((piece.high for piece in days), default=None),
        }

    def at_once(self) -> dict[str, Any]:
        """Return the parameters of `usage_of_top`, for a cut that has a top and groups by no value."""
        cut = self.cut
        parameters = self._parameters(cut.dimension, self._by(False))
        return parameters | {"order_by": cut.order_by, "top": cut.top}

    def reads(self, winners: Sequence[Group] | None) -> list[Read]:
        """Return the reads of `usage` and `reliability`. winners: the groups of the top."""
        cut = self.cut
        if cut.top is None:
            found = [Read(self._parameters(cut.dimension, self._by(cut.by_value)))]
            return found + (
                [Read(self._parameters("", self._by(False)), rest=True)] if self.has_valueless else []
            )
        winners = winners or ()
        found = [
            Read(self._parameters(cut.dimension, self._by(cut.by_value), winners, "winners")),
            Read(
                self._parameters("" if self.has_valueless else cut.dimension, (False, False, False)),
                rest=True,
            ),
        ]
        if self.has_valueless and any(value is None for _, _, value in winners):
            found.append(Read(self._parameters("", self._by(False), winners, "valueless")))
            found.append(
                Read(self._parameters(cut.dimension, self._by(False), winners, "valueless"), sign=-1)
            )
        return found

    def _by(self, value: bool) -> tuple[bool, bool, bool]:
        return self.cut.by_org, self.cut.by_model, value

    def codes(self, winners: Sequence[Group] | None) -> dict[str, Any]:
        """Return the parameters of `codes`. Codes are kept by model alone, not by another dimension."""
        return self._parameters(ERROR_CODE, self._by(False), winners or ())

    def _parameters(
        self,
        dimension: str,
        by: tuple[bool, bool, bool],
        winners: Sequence[Group] = (),
        pick: str = "all",
    ) -> dict[str, Any]:
        """Return the parameters of a statement. by: whether it groups by organisation, model and value."""
        cut = self.cut
        found = self._pieces_of(dimension)
        grains, lows, highs, plus, minus = zip(*found, strict=True) if found else [()] * 5
        raw = [piece for piece in found if piece.grain == RAW]
        return {
            "dimension": dimension,
            **dict(zip(("by_org", "by_model", "by_value"), by, strict=True)),
            "pick": pick,
            "org_ids": cut.org_ids or (_NIL,),  # a list of none has no SQL; there is no such organisation
            "model_ids": _listed(cut.model_ids),
            "values": _listed(cut.values) if dimension == cut.dimension else None,
            "pieces": found,  # for callers; the statements have them as arrays
            "grains": array(grains),
            "lows": array(map(datetime.isoformat, lows)),
            "highs": array(map(datetime.isoformat, highs)),
            "plus": array(plus),
            "minus": array(minus),
            "first_low": min(lows, default=_LONG_AGO),
            "last_high": max(highs, default=_LONG_AGO),
            "signed": bool(set(minus) - {None}),
            "with_days": DAY_MINUTES in grains,
            "with_hours": HOUR_MINUTES in grains,
            "with_halves": HALF_MINUTES in grains,
            "with_raw": bool(raw),
            "raw_from": min((piece.low for piece in raw), default=_LONG_AGO),
            "raw_to": max((piece.high for piece in raw), default=_LONG_AGO),
            "shown_only": cut.granularity != "minute",
            "waiting": self._waiting_of(raw),
            "sums_since": self.kept[""].complete_since or _LONG_AGO,
            "fold": cut.top is not None,
            "winner_orgs": [org for org, _, _ in winners],
            "winner_models": [model for _, model, _ in winners],
            # Where groups have no value, theirs is '', so that None is left for those without one.
            "winner_values": [value if cut.by_value else "" for _, _, value in winners],
            "nil": _NIL,
        }

    def _waiting_of(self, raw: Sequence[Piece]) -> str:
        if not raw or self.cut.granularity == "minute":
            return "{}"
        assert self.waiting is not None, "raw events beside rollups: which batches wait?"  # noqa: S101
        return self.waiting

    def _pieces_of(self, dimension: str) -> list[Piece]:
        if dimension not in self._pieces:
            self._pieces[dimension] = self._made(dimension)
        return self._pieces[dimension]

    def _made(self, dimension: str) -> list[Piece]:
        kept = self.kept.get(dimension, self.kept[""])
        if self.cut.granularity == "minute":
            return [
                Piece(RAW, low, high, number, None)
                for number, (low, high) in enumerate(zip(self.bounds, self.bounds[1:], strict=False))
            ]
        days = self.cut.granularity != "hour"
        found: list[Piece] = []
        since = self.kept_since
        try:
            for piece in pieces(self.bounds, days=days, hours=kept.keeps_hours):
                if piece.high > since:
                    found += _as_kept(piece._replace(low=since) if piece.low < since else piece, kept)
            self._check_hours(found, kept)
        except NotKept as error:
            if not dimension:
                raise
            raise NotKept(f"of {dimension} {error}; kept are {in_words(self.kept)}") from None
        return found

    def _check_hours(self, found: Sequence[Piece], kept: Kept) -> None:
        if kept.hours_kept is None:
            return
        oldest = min((piece.low for piece in found if piece.grain == HOUR_MINUTES), default=self._now)
        if oldest < self._now - kept.hours_kept:
            raise NotKept(f"hours are kept for {kept.hours_kept.days} days, and only days longer")


def _as_kept(piece: Piece, kept: Kept) -> list[Piece]:
    """Return where a piece's sums are: the newest hours may not be in their day yet, and the first minutes
    of hours may be in the raw events alone.
    """
    if piece.grain == DAY_MINUTES and kept.days_until is not None and kept.days_until < piece.high:
        hours = piece._replace(grain=HOUR_MINUTES, low=max(piece.low, kept.days_until))
        return [piece, hours]
    if piece.grain in {DAY_MINUTES, HOUR_MINUTES}:
        return [piece]
    if kept.complete_since is not None and kept.name and piece.low < kept.complete_since:
        return []  # its hour lacks them as well
    high = piece.low + piece.grain * _MINUTE
    has_halves = kept.halves_since is None or piece.low >= kept.halves_since
    if piece.grain != HALF_MINUTES or piece.low.hour not in HALF_HOURS or not has_halves:
        grain = RAW
    else:
        grain = HOUR_MINUTES if kept.halves_in_hours else HALF_MINUTES
    return [piece._replace(grain=grain, high=high)]


def array(values: Iterable[int | str | None]) -> str:
    """Write plain words as PostgreSQL reads an array: psycopg2 takes ten times as long, 1 ms for a month."""
    return f"{{{','.join('NULL' if value is None else str(value) for value in values)}}}"


def _listed(values: tuple[str, ...] | None) -> list[str] | None:
    return None if values is None else list(values)
