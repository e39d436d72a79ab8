"""Puts the gateway together: settings in, WSGI application out."""

from typing import Any

import falcon
from prometheus_client import CollectorRegistry

from gateway.access.middleware import Access
from gateway.access.signature import Signatures
from gateway.console.files import read_files
from gateway.console.resources import ConsoleAsset, ConsolePage, ConsoleRedirect
from gateway.database import GatewayDatabase
from gateway.http import problems
from gateway.http.concurrency import ConcurrencyLimit
from gateway.http.correlation import Correlation
from gateway.incidents import IncidentExporter
from gateway.resources.dimensions import DimensionsResource, DimensionValuesResource
from gateway.resources.events import ValidateResource
from gateway.resources.exports import DownloadResource, ExportResource, ExportsResource
from gateway.resources.freshness import FreshnessReader, FreshnessResource
from gateway.resources.freshness_cache import FreshnessCache
from gateway.resources.incidents import IncidentsResource
from gateway.resources.reliability import PlatformReliabilityResource, ReliabilityResource
from gateway.resources.status import HealthResource, MetricsResource, OpenApiResource, ReadyResource
from gateway.resources.usage import PlatformUsageResource, UsageResource
from shared.clock import Clock, utc_now
from shared.metrics import GatewayMetrics
from shared.s3 import ObjectStore
from shared.settings import GatewaySettings

PREFIX = "/analytics/v1"
CONSOLE = "/analytics/console"

MAX_STREAMS = 3
"""Incident exports at once in each process. They have connections of their own."""


class Application(falcon.App[Any, Any]):
    """The WSGI application."""

    def __init__(self, correlation: Correlation, access: Access) -> None:
        super().__init__(middleware=[correlation, access])
        self.correlation = correlation
        """Counts also what the server refuses by itself (gateway/http/worker.py)."""


def create_app(settings: GatewaySettings, clock: Clock = utc_now) -> Application:
    """Return the application. Connects to nothing yet."""
    metrics = GatewayMetrics(CollectorRegistry())
    database = GatewayDatabase(settings.database_url, metrics)
    cache = FreshnessCache(settings.redis_url, settings.freshness_cache_ttl, metrics)
    freshness = FreshnessReader(database, cache, clock)
    large = ConcurrencyLimit("large answers", max_by_subject=1, max_by_org=1, max_in_all=2)
    streams = ConcurrencyLimit("incident exports", max_by_subject=2, max_by_org=2, max_in_all=MAX_STREAMS)
    compat = settings.org_binding == "compat"
    signatures = Signatures(settings.actor_signature_keys, clock, metrics)
    access = Access(database, signatures, enabled=settings.enable_rbac, compat=compat)
    app = Application(Correlation(metrics), access)
    # No body but JSON that a resource reads itself: form parsing is for browsers.
    app.req_options.media_handlers.clear()
    app.req_options.strip_url_path_trailing_slash = False
    problems.install(app)
    routes: dict[str, Any] = {
        f"{PREFIX}/orgs/{{org_id}}/usage": UsageResource(database, freshness, large, clock),
        f"{PREFIX}/orgs/{{org_id}}/reliability": ReliabilityResource(database, large, clock),
        f"{PREFIX}/orgs/{{org_id}}/dimensions": DimensionsResource(database),
        f"{PREFIX}/orgs/{{org_id}}/dimensions/{{name}}/values": DimensionValuesResource(database),
        f"{PREFIX}/usage": PlatformUsageResource(database, freshness, large, clock),
        f"{PREFIX}/reliability": PlatformReliabilityResource(database, large, clock),
        f"{PREFIX}/orgs/{{org_id}}/freshness": FreshnessResource(freshness),
        f"{PREFIX}/orgs/{{org_id}}/incidents/export": IncidentsResource(
            IncidentExporter.of(settings.database_url, connections=MAX_STREAMS), streams
        ),
        f"{PREFIX}/orgs/{{org_id}}/exports": ExportsResource(database, clock),
        f"{PREFIX}/orgs/{{org_id}}/exports/{{job_id}}": ExportResource(database),
        f"{PREFIX}/orgs/{{org_id}}/exports/{{job_id}}/download": DownloadResource(
            database, ObjectStore(settings), settings.signed_url_ttl, clock
        ),
        f"{PREFIX}/events/validate": ValidateResource(clock),
        f"{PREFIX}/status/healthz": HealthResource(),
        f"{PREFIX}/status/readyz": ReadyResource(settings.database_url, metrics),
        f"{PREFIX}/openapi.json": OpenApiResource(),
        "/metrics": MetricsResource(),
    }
    if settings.console_enabled:
        page, assets = read_files()
        routes |= {
            CONSOLE: ConsoleRedirect(),
            f"{CONSOLE}/": ConsolePage(page),
            f"{CONSOLE}/assets/{{name}}": ConsoleAsset(assets),
        }
    for path, resource in routes.items():
        _require_needs(resource)
        if hasattr(resource, "on_get"):
            resource.on_head = resource.on_get  # the body is dropped on its way out
        app.add_route(path, resource)
    return app


def _require_needs(resource: Any) -> None:
    """Raise TypeError for a resource that does not declare what each of its methods needs."""
    methods = {name[3:].upper() for name in dir(resource) if name.startswith("on_")}
    if methods != set(getattr(resource, "NEEDS", {})):
        raise TypeError(f"{type(resource).__name__}.NEEDS must name exactly {', '.join(sorted(methods))}")
