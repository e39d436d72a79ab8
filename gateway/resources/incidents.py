"""Incident exports over HTTP: a stream of CSV, a few at a time."""

from contextlib import ExitStack
from typing import ClassVar

import falcon

from gateway.access.authorize import INCIDENTS_EXPORT
from gateway.http.concurrency import ConcurrencyLimit
from gateway.http.params import Params
from gateway.incidents.export import IncidentExporter
from gateway.incidents.request import PARAMETERS, read_request


class IncidentsResource:
    """GET /orgs/{orgId}/incidents/export"""

    NEEDS: ClassVar = {"GET": INCIDENTS_EXPORT}

    def __init__(self, exporter: IncidentExporter, streams: ConcurrencyLimit) -> None:
        self._exporter = exporter
        self._streams = streams

    def on_get(self, req: falcon.Request, resp: falcon.Response, org_id: str) -> None:
        """Answer with a stream of CSV; X-Truncated is true where rows were cut off."""
        request = read_request(Params(req.query_string, *PARAMETERS), org_id)
        with ExitStack() as opening:
            opening.enter_context(self._streams.admit(req))
            incident = self._exporter.export(request)
            incident.closes_also(opening.pop_all())
        resp.set_header("X-Truncated", "true" if incident.truncated else "false")
        resp.set_header("Cache-Control", "private, no-store")
        resp.content_type = "text/csv; charset=utf-8; header=present"
        resp.downloadable_as = f"incident-{org_id}-{request.start:%Y%m%dT%H%M%SZ}.csv"
        resp.stream = incident
