"""Liveness, readiness, metrics and the description of the API."""

import threading
from pathlib import Path
from typing import ClassVar

import falcon
import msgspec
import structlog
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from gateway.access.authorize import PUBLIC
from gateway.database import NO_ORG
from gateway.http.answers import has, tag_of
from shared.errors import AnalyticsError, SchemaOutdated
from shared.exposition import exposition
from shared.metrics import GatewayMetrics
from shared.migrate import check_schema
from shared.postgres import Database
from shared.process_metrics import add_process_metrics, arbiter_and_workers
from shared.version import COMMIT, VERSION

_PROBE_SECONDS = 3

_log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.status")


class HealthResource:
    """GET /status/healthz: this process answers. It asks nothing that it depends on."""

    NEEDS: ClassVar = {"GET": PUBLIC}

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Answer 200."""
        resp.media = {"status": "ok", "version": VERSION, "commit": COMMIT}


class ReadyResource:
    """GET /status/readyz: requests would be answered now. Redis is a cache, and S3 is not asked here."""

    NEEDS: ClassVar = {"GET": PUBLIC}

    def __init__(self, database_url: str, metrics: GatewayMetrics) -> None:
        self._metrics = metrics
        self._database = Database(
            database_url, application_name="gateway probe", statement_timeout_seconds=_PROBE_SECONDS
        )
        self._lock = threading.Lock()

    def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """Answer 200, or 503 that names the failed part."""
        faults = self._faults()
        self._metrics.readiness_failed.set(bool(faults))
        resp.status = 503 if faults else 200
        resp.media = {"status": "failed" if faults else "ok", "faults": faults}

    def _faults(self) -> dict[str, str]:
        if not self._lock.acquire(timeout=_PROBE_SECONDS):
            return {"postgresql": "an earlier probe still waits for its answer"}
        try:
            with self._database.query(time_limit_seconds=_PROBE_SECONDS + 1) as cur:
                check_schema(cur)
            # And as the role that requests are answered in: a login may lack the right to it.
            with self._database.query(time_limit_seconds=_PROBE_SECONDS + 1, beginning=NO_ORG) as cur:
                check_schema(cur)
        except SchemaOutdated as error:
            return {"postgresql": str(error)}
        except AnalyticsError as error:
            # The driver names hosts and users, and anybody may ask here.
            _log.warning("not ready", error=str(error))
            return {"postgresql": "did not answer; the log has the reason"}
        finally:
            self._lock.release()
        return {}


class MetricsResource:
    """GET /metrics: the sum over all worker processes of this gateway, and what each process takes."""

    NEEDS: ClassVar = {"GET": PUBLIC}

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer in the format the scraper asks for."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # prometheus_client has no types here
        add_process_metrics(registry, arbiter_and_workers)
        resp.data, resp.content_type = exposition(registry, req.get_header("Accept"))


class OpenApiResource:
    """GET /openapi.json"""

    NEEDS: ClassVar = {"GET": PUBLIC}

    def __init__(self) -> None:
        document = yaml.safe_load((Path(__file__).parent.parent / "openapi.yaml").read_text(encoding="utf-8"))
        document["info"]["version"] = VERSION
        self._body = msgspec.json.encode(document)
        self._etag = tag_of(self._body)

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with the OpenAPI 3.1 document."""
        resp.etag = self._etag
        if has(req, self._etag):
            resp.status = 304
            return
        resp.content_type = falcon.MEDIA_JSON
        resp.data = self._body
