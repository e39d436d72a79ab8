"""Reads what an incident export is asked for: the same rules over HTTP and on a command line."""

from gateway.http.params import Params
from gateway.incidents.export import DEFAULT_ROWS, MAX_ROWS, IncidentRequest
from shared.usage_event.schema import STATUSES

PARAMETERS = ("start", "end", "modelId", "status", "maxRows")


def read_request(params: Params, org_id: str) -> IncidentRequest:
    """Return what is asked for. Raises Problem 400 that names every fault."""
    start, end = params.time("start"), params.time("end")
    params.fits(start, end)
    model_id = params.text("modelId", max_length=200)
    status = params.choice("status", STATUSES)
    max_rows = params.whole_number("maxRows", min_value=1, max_value=MAX_ROWS, default=DEFAULT_ROWS)
    params.check()
    assert start is not None  # noqa: S101  check() has raised otherwise
    assert end is not None  # noqa: S101
    return IncidentRequest(org_id, start, end, model_id, status, max_rows)
