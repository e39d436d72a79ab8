"""/healthz, /readyz and /metrics of a worker process, on a port of its own.

/healthz speaks of the process alone (its loop moves, its channel is open) and never of a dependency:
restarting the process does not mend a database. /readyz speaks of the dependencies.
"""

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import make_wsgi_app

from shared.metrics import CommonMetrics

Check = Callable[[], Mapping[str, str]]
"""Returns the faults by part, such as {"postgresql": "connection refused"}; empty when all is well."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    timeout = 10  # seconds a client may keep a thread with silence

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's names
        """Say nothing: a probe every few seconds would drown the log."""


def probe_app(metrics: CommonMetrics, live: Check, ready: Check) -> WSGIApplication:
    """Return the WSGI application that serves the three paths."""
    exposition = make_wsgi_app(metrics.registry)
    checks = {"/healthz": live, "/readyz": ready}

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            scraped: Iterable[bytes] = exposition(environ, start_response)
            return scraped
        if path not in checks:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"try /healthz, /readyz or /metrics\n"]
        faults = checks[path]()
        if path == "/readyz":
            metrics.readiness_failed.set(bool(faults))
        body = {"status": "failed" if faults else "ok", "faults": dict(faults)}
        start_response(
            "503 Service Unavailable" if faults else "200 OK",
            [("Content-Type", "application/json")],
        )
        return [json.dumps(body).encode() + b"\n"]

    return app


def start_probe_server(port: int, metrics: CommonMetrics, live: Check, ready: Check) -> None:
    """Serve the probes from a daemon thread on all interfaces. Raises OSError when the port is taken."""
    server = make_server(
        "",
        port,
        probe_app(metrics, live, ready),
        server_class=_Server,
        handler_class=_QuietHandler,
    )
    threading.Thread(target=server.serve_forever, name="probe-server", daemon=True).start()
