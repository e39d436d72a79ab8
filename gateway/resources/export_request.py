"""What an export is asked for with: a body and an Idempotency-Key, every fault of them named at once."""

from datetime import datetime, timedelta
from typing import Any

import falcon

from gateway.access.middleware import refuse_repeated
from gateway.http.bodies import read_object
from gateway.http.problems import Fault, Faults, Problem
from shared.cut import Cut, groups
from shared.export_job import EXPORT_GRANULARITIES, PLAIN_GROUP_BY, export_cut
from shared.validators import Invalid, check_window, choice, text, texts, time, time_zone

MAX_WINDOW = timedelta(days=31)
COMPRESSIONS = {"none": False, "gzip": True}

_FIELDS = {"timeRange", "granularity", "models", "groupBy", "timeZone", "compression"}
_MAX_MODELS = 100
_MAX_BODY_BYTES = 512 * 1024


def read_request(req: falcon.Request, org_id: str, now: datetime) -> tuple[dict[str, Any], Cut]:
    """Return the columns of the job that is asked for, and the cut that its file answers.

    The window is widened to whole buckets, of a month to whole days. Raises Problem that names every fault.
    """
    refuse_repeated(req, "Idempotency-Key")
    body = read_object(req, max_bytes=_MAX_BODY_BYTES)
    faults = Faults()
    for name in body.keys() - _FIELDS:
        faults.note(name[:100], "is not a field here")
    granularity = faults.read("granularity", choice(EXPORT_GRANULARITIES), body.get("granularity", "daily"))
    compression = faults.read("compression", choice(COMPRESSIONS), body.get("compression", "none"))
    group_by = faults.read("groupBy", _group_by, body.get("groupBy", PLAIN_GROUP_BY))
    tz = faults.read("timeZone", time_zone, body.get("timeZone", "UTC"))
    models = _models(body.get("models"), faults)
    key = faults.read("Idempotency-Key", _idempotency_key, req.get_header("Idempotency-Key"))
    start, end = _window(body.get("timeRange"), faults)
    faults.check()
    assert granularity and compression and group_by and tz and start and end  # noqa: PT018, S101  check() says so
    cut = export_cut(org_id, granularity, group_by=group_by, tz=tz, start=start, end=end, models=models)
    try:
        bounds = cut.boundaries(keeps_hours=True)
    except OverflowError:
        field, reason = ("start", "early") if start.year < now.year else ("end", "late")
        raise Problem.invalid([Fault(field=f"timeRange.{field}", reason=f"is too {reason}")]) from None
    return {
        "org_id": org_id,
        "requested_by": req.context.subject,
        "granularity": granularity,
        "window_start": bounds[0],
        "window_end": bounds[-1],
        "models": models,
        "group_by": group_by,
        "time_zone": tz.key,
        "compress": COMPRESSIONS[compression],
        "idempotency_key": key,
    }, cut


def _window(value: object, faults: Faults) -> tuple[datetime | None, datetime | None]:
    """Return the window as asked for, None for what is at fault."""
    if not isinstance(value, dict) or value.keys() != {"start", "end"}:
        faults.note("timeRange", "must be an object with start and end and nothing else")
        return None, None
    start, end = (faults.read(f"timeRange.{name}", time, value[name]) for name in ("start", "end"))
    if start is not None and end is not None:
        try:
            check_window(start, end, max_span=MAX_WINDOW)
        except Invalid as error:
            faults.note("timeRange.end", str(error))
            return None, None
    return start, end


def _models(value: object, faults: Faults) -> list[str] | None:
    if value is None:
        return None
    found = faults.read("models", texts(max_values=_MAX_MODELS, max_length=200), value)
    return None if found is None else sorted(found)


def _group_by(value: object) -> str:
    """Return a groupBy in its one spelling, model first."""
    given = text(max_length=200)(value)
    try:
        _, by_model, dimension = groups(given)
    except ValueError as error:
        raise Invalid(str(error)) from None
    return ",".join([*(["model"] if by_model else []), *([dimension] if dimension else [])]) or "none"


def _idempotency_key(value: str | None) -> str | None:
    if value is not None and not (1 <= len(value) <= 200 and value.isascii() and value.isprintable()):
        raise Invalid("must be 1 to 200 printable ASCII characters")
    return value
