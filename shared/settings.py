"""Every setting of every process: declared once, typed, read from the environment at start.

A process's class names exactly the settings it reads. `load` reports all faults at once;
`masked` gives the configuration without secrets, for the one log line at start.
"""

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit

from shared.errors import SettingsError

T = TypeVar("T")

_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)", re.ASCII)
LONGEST = timedelta(days=36_525)
"""No duration may pass this, so that a date less a duration is still a date."""

_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def duration(text: str) -> timedelta:
    """Parse `500ms`, `30s`, `5m`, `24h` or `90d`; more than zero. Raises ValueError."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration such as 500ms, 30s, 5m, 24h or 90d")
    value = timedelta(**{_UNITS[match[2]]: int(match[1])})
    if value > LONGEST:
        raise ValueError(f"{text!r} is longer than a hundred years")
    if not value:
        raise ValueError(f"{text!r} must be more than zero")
    return value


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Return a parser of decimal integers from low to high, both allowed."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", text, re.ASCII) or not low <= int(text) <= high:
            raise ValueError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return parse


def switch(text: str) -> bool:
    """Parse true or false (any case). Raises ValueError."""
    if text.lower() not in {"true", "false"}:
        raise ValueError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def one_of(*choices: str) -> Callable[[str], str]:
    """Return a parser that accepts exactly these words."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"{text!r} is none of {', '.join(choices)}")
        return text

    return parse


def url(*schemes: str) -> Callable[[str], str]:
    """Return a parser of URLs with one of these schemes and a host. The value stays out of errors."""

    def parse(text: str) -> str:
        try:
            parts = urlsplit(text)
            _ = parts.port
        except ValueError:
            raise ValueError("is not a URL that can be read") from None
        if parts.scheme not in schemes or not parts.netloc:
            raise ValueError(f"must be a URL that starts with {' or '.join(s + '://' for s in schemes)}")
        return text

    return parse


def endpoint(text: str) -> str:
    """Parse `host`, `host:port` or an http(s) URL of an S3 server. Raises ValueError."""
    bare = re.sub(r"^https?://", "", text).rstrip("/")
    if not re.fullmatch(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?", bare, re.ASCII):
        raise ValueError(f"{text!r} is not host:port or an http(s) URL without a path")
    return text.rstrip("/")


def nonempty(text: str) -> str:
    """Accept any text but an empty one."""
    if not text.strip():
        raise ValueError("is empty")
    return text


def setting(
    name: str,
    parse: Callable[[str], Any],
    doc: str,
    *,
    default: str | None = None,
    secret: bool = False,
) -> Any:
    """Declare a setting: its environment name, parser, purpose, and default as it would be written.

    Without a default it is required. Secrets are masked wherever the configuration is shown.
    """
    return field(metadata={"name": name, "parse": parse, "doc": doc, "default": default, "secret": secret})


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    log_level: str = setting(
        "LOG_LEVEL",
        one_of("debug", "info", "warning", "error"),
        "least level logged",
        default="info",
    )
    log_format: str = setting(
        "LOG_FORMAT",
        one_of("auto", "json", "console"),
        "auto: console on a terminal, json elsewhere",
        default="auto",
    )


@dataclass(frozen=True, kw_only=True)
class DatabaseSettings:
    database_url: str = setting(
        "DATABASE_URL",
        url("postgresql", "postgres"),
        "PostgreSQL, as the process's own role",
        secret=True,
    )


@dataclass(frozen=True, kw_only=True)
class BrokerSettings:
    rabbitmq_url: str = setting("RABBITMQ_URL", url("amqp", "amqps"), "RabbitMQ", secret=True)
    exchange: str = setting(
        "RABBITMQ_EXCHANGE",
        nonempty,
        "topic exchange that producers publish to",
        default="analytics.usage",
    )
    queue: str = setting(
        "RABBITMQ_QUEUE", nonempty, "quorum queue of usage events", default="analytics.usage.v1"
    )
    dead_letter_exchange: str = setting(
        "RABBITMQ_DEAD_LETTER_EXCHANGE",
        nonempty,
        "exchange for refused events",
        default="analytics.usage.dlx",
    )
    dead_letter_queue: str = setting(
        "RABBITMQ_DEAD_LETTER_QUEUE",
        nonempty,
        "quorum queue of refused events",
        default="analytics.usage.v1.dlq",
    )


@dataclass(frozen=True, kw_only=True)
class ObjectStoreSettings:
    s3_endpoint: str = setting("S3_ENDPOINT", endpoint, "S3 server, host:port or URL")
    s3_access_key: str = setting("S3_ACCESS_KEY", nonempty, "S3 access key", secret=True)
    s3_secret_key: str = setting("S3_SECRET_KEY", nonempty, "S3 secret key", secret=True)
    s3_bucket: str = setting("S3_BUCKET", nonempty, "bucket of the exports", default="analytics-exports")
    s3_region: str = setting("S3_REGION", nonempty, "region the signatures name", default="us-east-1")
    s3_secure: bool = setting("S3_SECURE", switch, "TLS to the S3 server", default="true")


def _metrics_port(default: int) -> Any:
    return setting(
        "METRICS_PORT",
        whole_number(1, 65535),
        "port of /healthz, /readyz and /metrics",
        default=str(default),
    )


def _dedupe_window() -> Any:
    return setting(
        "DEDUPE_WINDOW",
        duration,
        "how long a resent event is recognised, from its first receipt",
        default="35d",
    )


@dataclass(frozen=True, kw_only=True)
class IngestorSettings(LogSettings, DatabaseSettings, BrokerSettings):
    """Settings of `python -m ingestor`."""

    metrics_port: int = _metrics_port(9101)
    batch_size: int = setting(
        "INGESTION_BATCH_SIZE",
        whole_number(1, 20_000),
        "most events in one transaction",
        default="2000",
    )
    batch_timeout: timedelta = setting(
        "INGESTION_BATCH_TIMEOUT",
        duration,
        "longest wait before a batch is written",
        default="200ms",
    )


@dataclass(frozen=True, kw_only=True)
class RollupWorkerSettings(LogSettings, DatabaseSettings):
    """Settings of `python -m rollup_worker`."""

    metrics_port: int = _metrics_port(9102)
    rollup_interval: timedelta = setting(
        "ROLLUP_INTERVAL", duration, "pause between looks for new batches", default="500ms"
    )
    dedupe_window: timedelta = _dedupe_window()
    event_retention: timedelta = setting(
        "EVENT_RETENTION", duration, "how long raw events are kept", default="400d"
    )
    rollup_retention: timedelta = setting(
        "ROLLUP_RETENTION", duration, "how long rollups are kept", default="400d"
    )
    metrics_max_series: int = setting(
        "METRICS_MAX_SERIES",
        whole_number(1, 1_000_000),
        "most label sets of a gauge by tenant",
        default="2000",
    )


@dataclass(frozen=True, kw_only=True)
class ExportWorkerSettings(LogSettings, DatabaseSettings, ObjectStoreSettings):
    """Settings of `python -m export_worker`."""

    metrics_port: int = _metrics_port(9103)
    concurrency: int = setting(
        "EXPORT_WORKER_CONCURRENCY", whole_number(1, 64), "export jobs at once", default="2"
    )
    interval: timedelta = setting(
        "EXPORT_WORKER_INTERVAL", duration, "look for jobs at least this often", default="30s"
    )
    retention: timedelta = setting(
        "EXPORT_RETENTION", duration, "how long a finished export can be fetched", default="90d"
    )
    most_attempts: int = setting(
        "EXPORT_MAX_ATTEMPTS", whole_number(1, 100), "attempts before a job fails", default="3"
    )
    lease: timedelta = setting(
        "EXPORT_LEASE", duration, "a worker silent for this long loses its job", default="30s"
    )


@dataclass(frozen=True, kw_only=True)
class ScheduleMonthlySettings(LogSettings, DatabaseSettings):
    """Settings of `python -m export_worker schedule-monthly`."""


@dataclass(frozen=True, kw_only=True)
class GatewaySettings(LogSettings, DatabaseSettings, ObjectStoreSettings):
    """Settings of the gateway (gunicorn with gateway.wsgi:application)."""

    http_port: int = setting(
        "HTTP_PORT", whole_number(1, 65535), "port of the REST API and /metrics", default="8084"
    )
    workers: int = setting("WEB_CONCURRENCY", whole_number(1, 64), "gunicorn worker processes", default="2")
    redis_url: str = setting("REDIS_URL", url("redis", "rediss"), "Redis, a cache only", secret=True)
    freshness_cache_ttl: timedelta = setting(
        "FRESHNESS_CACHE_TTL", duration, "age a cached freshness answer may have", default="5s"
    )
    enable_rbac: bool = setting("ENABLE_RBAC", switch, "check roles and org binding", default="true")
    org_binding: str = setting(
        "ORG_BINDING",
        one_of("strict", "compat"),
        "plain roles without X-Actor-Orgs",
        default="strict",
    )
    signed_url_ttl: timedelta = setting(
        "EXPORT_SIGNED_URL_TTL", duration, "life of a download link", default="24h"
    )


@dataclass(frozen=True, kw_only=True)
class MigrateSettings(LogSettings, DatabaseSettings):
    """Settings of `python -m shared.migrate`; DATABASE_URL is the schema owner's."""


def load(settings_class: type[T], environ: Mapping[str, str]) -> T:
    """Read a settings class from the environment. Raises SettingsError that lists every fault.

    An empty variable counts as absent, as an unset one does in most deployment tools.
    """
    values: dict[str, Any] = {}
    faults: list[str] = []
    for item in fields(settings_class):  # type: ignore[arg-type]  # every settings class is a dataclass
        meta = item.metadata
        text = environ.get(meta["name"]) or meta["default"]
        if text is None:
            faults.append(f"{meta['name']} is missing ({meta['doc']})")
            continue
        try:
            values[item.name] = meta["parse"](text)
        except ValueError as fault:
            faults.append(f"{meta['name']} {fault}")
    if faults:
        raise SettingsError(faults)
    return settings_class(**values)


def load_or_exit(settings_class: type[T], environ: Mapping[str, str]) -> T:
    """Like load, but a fault ends the process with exit code 2 and the whole list on stderr."""
    try:
        return load(settings_class, environ)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None


def masked(settings: object) -> dict[str, str]:
    """Return the configuration by environment name with secrets replaced, for the log at start."""
    shown = {}
    for item in fields(settings):  # type: ignore[arg-type]  # every settings class is a dataclass
        value = getattr(settings, item.name)
        shown[item.metadata["name"]] = _mask(value) if item.metadata["secret"] else str(value)
    return shown


def _mask(value: str) -> str:
    """Keep the host and path of a URL, which are needed at night, and nothing that opens a door."""
    parts = urlsplit(value)
    if not parts.hostname:
        return "***"
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://***@{parts.hostname}{port}{parts.path}"
