"""Every setting of every process, declared once. A process's class names exactly the settings it reads."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from shared.settings.declare import Settings, setting
from shared.settings.dimensions import ROLLUP_DIMENSIONS, KeptDimension
from shared.settings.servers import BROKER_URL, BUCKET, CACHE_URL, DATABASE_URL, ENDPOINT, REGION
from shared.settings.signature_keys import SIGNATURE_KEYS, SignatureKey
from shared.settings.values import (
    ACCESS_KEY,
    EXCHANGE,
    QUEUE,
    SWITCH,
    duration,
    one_of,
    optional,
    whole_number,
)


@dataclass(frozen=True, kw_only=True)
class LogSettings(Settings):
    """What every process logs, and how."""

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
class DatabaseSettings(Settings):
    """The process's own login to PostgreSQL."""

    database_url: str = setting(
        "DATABASE_URL",
        DATABASE_URL,
        "PostgreSQL, as the process's own role; of several hosts the one that takes writes",
        secret=True,
    )


@dataclass(frozen=True, kw_only=True)
class BrokerSettings(Settings):
    """RabbitMQ: where it is, and the names of exchanges and queues."""

    rabbitmq_url: str = setting("RABBITMQ_URL", BROKER_URL, "RabbitMQ, one host or several", secret=True)
    exchange: str = setting(
        "RABBITMQ_EXCHANGE",
        EXCHANGE,
        "topic exchange that producers publish to",
        default="analytics.usage",
    )
    queue: str = setting(
        "RABBITMQ_QUEUE", QUEUE, "quorum queue of usage events", default="analytics.usage.v1"
    )
    dead_letter_exchange: str = setting(
        "RABBITMQ_DEAD_LETTER_EXCHANGE",
        EXCHANGE,
        "exchange for refused events",
        default="analytics.usage.dlx",
    )
    dead_letter_queue: str = setting(
        "RABBITMQ_DEAD_LETTER_QUEUE",
        QUEUE,
        "quorum queue of refused events",
        default="analytics.usage.v1.dlq",
    )
    read_frames: bool = setting(
        "RABBITMQ_READ_FRAMES",
        SWITCH,
        "read AMQP frames in place of pika; without, slower, and a body of any size is held in memory",
        default="true",
    )

    @classmethod
    def contradictions(cls, values: Mapping[str, Any]) -> Iterator[str]:
        """Refused events that come back as events go round for ever."""
        if "queue" in values and values["queue"] == values.get("dead_letter_queue"):
            yield "RABBITMQ_DEAD_LETTER_QUEUE is the queue of events itself (RABBITMQ_QUEUE)"
        if "exchange" in values and values["exchange"] == values.get("dead_letter_exchange"):
            yield "RABBITMQ_DEAD_LETTER_EXCHANGE is the exchange of events itself (RABBITMQ_EXCHANGE)"


@dataclass(frozen=True, kw_only=True)
class ObjectStoreSettings(Settings):
    """The S3 server and the bucket of exports."""

    s3_endpoint: str = setting("S3_ENDPOINT", ENDPOINT, "S3 server, host:port or URL")
    s3_access_key: str = setting("S3_ACCESS_KEY", ACCESS_KEY, "S3 access key", secret=True)
    s3_secret_key: str = setting("S3_SECRET_KEY", ACCESS_KEY, "S3 secret key", secret=True)
    s3_bucket: str = setting("S3_BUCKET", BUCKET, "bucket of the exports", default="analytics-exports")
    s3_region: str = setting("S3_REGION", REGION, "region the signatures name", default="us-east-1")
    s3_secure: bool = setting("S3_SECURE", SWITCH, "TLS to the S3 server", default="true")


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
        duration("1m", "3650d"),
        "how long a resent event is recognised, from its first receipt",
        default="35d",
    )


def _listen_url() -> Any:
    return setting(
        "DATABASE_LISTEN_URL",
        optional(DATABASE_URL),
        "where to listen for new batches or export jobs, past a pooler; without it at `DATABASE_URL`",
        default="",
        secret=True,
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
        duration("1ms", "1h"),
        "longest wait before a batch is written",
        default="200ms",
    )


@dataclass(frozen=True, kw_only=True)
class RollupWorkerSettings(LogSettings, DatabaseSettings):
    """Settings of `python -m rollup_worker`."""

    metrics_port: int = _metrics_port(9102)
    rollup_interval: timedelta = setting(
        "ROLLUP_INTERVAL", duration("10ms", "1h"), "pause between looks for new batches", default="500ms"
    )
    rollup_dimensions: tuple[KeptDimension, ...] = setting(
        "ROLLUP_DIMENSIONS",
        ROLLUP_DIMENSIONS,
        "dimensions to keep rollups by",
        default="client,apiKey,provider,operation,actor:day",
        may_be_empty=True,
    )
    listen_url: str | None = _listen_url()
    dedupe_window: timedelta = _dedupe_window()
    dedupe_part_keys: int = setting(
        "DEDUPE_PART_KEYS",
        whole_number(100, 100_000_000),
        "about how many dedupe keys the open part of the ledger has when it is closed",
        default="5000000",
    )
    event_retention: timedelta = setting(
        "EVENT_RETENTION", duration("1d", "3650d"), "how long raw events are kept", default="400d"
    )
    rollup_retention: timedelta = setting(
        "ROLLUP_RETENTION", duration("1d", "3650d"), "how long rollups are kept", default="400d"
    )
    metrics_max_series: int = setting(
        "METRICS_MAX_SERIES",
        whole_number(1, 100_000),
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
        "EXPORT_WORKER_INTERVAL", duration("10ms", "1h"), "look for jobs at least this often", default="30s"
    )
    listen_url: str | None = _listen_url()
    retention: timedelta = setting(
        "EXPORT_RETENTION",
        duration("1s", "3650d"),
        "how long a finished export can be fetched",
        default="90d",
    )
    max_attempts: int = setting(
        "EXPORT_MAX_ATTEMPTS", whole_number(1, 100), "attempts before a job fails", default="3"
    )
    lease: timedelta = setting(
        "EXPORT_LEASE", duration("1s", "1h"), "a worker silent for this long loses its job", default="30s"
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
    redis_url: str = setting("REDIS_URL", CACHE_URL, "Redis, a cache only", secret=True)
    freshness_cache_ttl: timedelta = setting(
        "FRESHNESS_CACHE_TTL", duration("1ms", "1h"), "age a cached freshness answer may have", default="5s"
    )
    enable_rbac: bool = setting("ENABLE_RBAC", SWITCH, "check roles and org binding", default="true")
    org_binding: str = setting(
        "ORG_BINDING",
        one_of("strict", "compat"),
        "plain roles without X-Actor-Orgs",
        default="strict",
    )
    actor_signature_keys: tuple[SignatureKey, ...] = setting(
        "ACTOR_SIGNATURE_KEYS",
        SIGNATURE_KEYS,
        "keys that the proxy signs with (docs/signatures.md); without, its headers are believed as they are",
        default="",
        secret=True,
    )
    console_enabled: bool = setting(
        "CONSOLE_ENABLED", SWITCH, "serve the console, a page for people", default="true"
    )
    signed_url_ttl: timedelta = setting(
        "EXPORT_SIGNED_URL_TTL", duration("1s", "7d"), "life of a download link", default="24h"
    )


@dataclass(frozen=True, kw_only=True)
class MigrateSettings(LogSettings, DatabaseSettings):
    """Settings of `python -m shared.migrate`; DATABASE_URL is the schema owner's."""


PROCESSES: Mapping[str, type[Settings]] = {
    "gateway": GatewaySettings,
    "ingestor": IngestorSettings,
    "rollup worker": RollupWorkerSettings,
    "export worker": ExportWorkerSettings,
    "migrate": MigrateSettings,
}

NAMES = frozenset(
    declared.name for settings_class in PROCESSES.values() for declared in settings_class.declared().values()
)
"""Every setting of the fleet by its environment name."""
