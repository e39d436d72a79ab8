"""Every metric of the fleet, declared once with its help text.

A process makes its own group with a registry, so that it exports what it measures and no zeros of
other processes. Names without a process in them are those the runbook and the dashboards know.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from shared.exposition import LookedUpGauge
from shared.process_metrics import add_process_metrics
from shared.version import COMMIT, VERSION

_BATCH_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_EXPORT_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_REQUEST_SECONDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
EXPORT_FAILURE_REASONS = (
    "object_store_unavailable",
    "object_store_refused",
    "database_unavailable",
    "stalled",
    "not_exportable",
    "claim_lost",
    "unexpected",
)
# What the last five minutes show is read less often the longer it takes; its alert comes after five minutes.
_RECENT_MAX_AGE_SECONDS = 900
_BATCH_EVENTS = (1, 10, 50, 100, 250, 500, 1000, 2000, 5000, 10000, 20000)


class CommonMetrics:
    """What every process exports."""

    def __init__(self, registry: CollectorRegistry, process: str) -> None:
        self.registry = registry
        self.readiness_failed = Gauge(
            "analytics_readiness_failed",
            "1 when the last readiness probe was refused, else 0.",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.dependency_errors = Counter(
            "analytics_dependency_errors",
            "Failed uses of a server this process depends on.",
            ["dependency"],
            registry=registry,
        )
        for dependency in ("postgresql", "rabbitmq", "redis", "s3"):
            self.dependency_errors.labels(dependency=dependency)
        build_info = Gauge(
            "analytics_build_info",
            "Always 1; the labels say what runs.",
            ["process", "version", "commit"],
            registry=registry,
            multiprocess_mode="max",
        )
        build_info.labels(process=process, version=VERSION, commit=COMMIT).set(1)


class WorkerMetrics(CommonMetrics):
    """What each worker exports: a process of its own, unlike the gateway's, which say so together."""

    def __init__(self, registry: CollectorRegistry, process: str) -> None:
        super().__init__(registry, process)
        add_process_metrics(registry)


class IngestorMetrics(WorkerMetrics):
    """What the ingestor exports."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry, "ingestor")
        self.events = Counter(
            "analytics_ingestion_events",
            "Events by what became of them.",
            ["result"],
            registry=registry,
        )
        for result in ("accepted", "duplicate", "invalid"):
            self.events.labels(result=result)
        self.content_conflicts = Counter(
            "analytics_ingestion_content_conflicts",
            "Duplicates whose content differs from the first.",
            registry=registry,
        )
        self.late_events = Counter(
            "analytics_ingestion_late_events",
            "Events accepted more than an hour after they occurred.",
            registry=registry,
        )
        self.dedupe_lookups = Counter(
            "analytics_dedupe_lookups",
            "Keys that were looked for in closed parts of the ledger.",
            registry=registry,
        )
        self.dedupe_false_positives = Counter(
            "analytics_dedupe_false_positives",
            "Looks into closed parts that a filter let pass in vain.",
            registry=registry,
        )
        self.dedupe_filter_bytes = Gauge(
            "analytics_dedupe_filter_bytes",
            "Memory of the closed parts' filters.",
            registry=registry,
        )
        self.dead_letters = Counter(
            "analytics_ingestion_dead_letters",
            "Events sent to the dead-letter queue, by reason.",
            ["reason"],
            registry=registry,
        )
        self.dead_letters_unconfirmed = Gauge(
            "analytics_ingestion_dead_letters_unconfirmed",
            "Dead letters that RabbitMQ has not confirmed yet; their messages stay unacknowledged.",
            registry=registry,
        )
        self.batch_events = Histogram(
            "analytics_ingestion_batch_events",
            "Events in a batch.",
            buckets=_BATCH_EVENTS,
            registry=registry,
        )
        self.batch_seconds = Histogram(
            "analytics_ingestion_batch_seconds",
            "From a batch's first event to the end of its commit.",
            buckets=_BATCH_SECONDS,
            registry=registry,
        )
        self.commit_seconds = Histogram(
            "analytics_ingestion_commit_seconds",
            "One batch's transaction, commit included.",
            buckets=_BATCH_SECONDS,
            registry=registry,
        )
        self.last_success = Gauge(
            "analytics_ingestion_last_success_timestamp",
            "Unix time of the last committed batch, 0 before the first.",
            registry=registry,
        )
        self.queue_messages = Gauge(
            "analytics_queue_messages", "Messages ready in a queue.", ["queue"], registry=registry
        )
        self.queue_oldest_age_seconds = Gauge(
            "analytics_queue_oldest_age_seconds",
            "Age of the oldest unacknowledged message, by its publish timestamp; 0 without one.",
            registry=registry,
        )


class RollupMetrics(WorkerMetrics):
    """What the rollup worker exports."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry, "rollup_worker")
        self.events = Counter("analytics_rollup_events", "Events added to the rollups.", registry=registry)
        self.batches = Counter("analytics_rollup_batches", "Batches added to the rollups.", registry=registry)
        self.seconds = Histogram(
            "analytics_rollup_seconds",
            "One rollup transaction, commit included.",
            buckets=_BATCH_SECONDS,
            registry=registry,
        )
        self.commit_to_rollup_seconds = Histogram(
            "analytics_rollup_delay_seconds",
            "From a batch's commit to its rollup.",
            buckets=_BATCH_SECONDS,
            registry=registry,
        )
        self.last_success = Gauge(
            "analytics_rollup_last_success_timestamp",
            "Unix time of the last completed look for batches, even if none; 0 before the first.",
            registry=registry,
        )
        self.pending_batches = LookedUpGauge(
            "analytics_rollup_pending_batches",
            "Committed batches that the rollups do not show yet.",
            registry=registry,
        )
        self.oldest_pending_seconds = LookedUpGauge(
            "analytics_rollup_oldest_pending_seconds",
            "Age of the oldest pending batch; 0 when none.",
            registry=registry,
        )
        self.freshness_lag_seconds = LookedUpGauge(
            "analytics_freshness_lag_seconds",
            "Age of the oldest accepted event that the rollups do not show, by organisation.",
            ["org_id"],
            registry=registry,
        )
        by_model = ["org_id", "model_id"]
        self.error_rate = LookedUpGauge(
            "analytics_usage_error_rate",
            "Failed share (0 to 1) of the last 5 minutes' calls.",
            by_model,
            registry=registry,
            max_age_seconds=_RECENT_MAX_AGE_SECONDS,
        )
        self.latency_p95_ms = LookedUpGauge(
            "analytics_usage_latency_p95_ms",
            "95th percentile of the last 5 minutes' latencies.",
            by_model,
            registry=registry,
            max_age_seconds=_RECENT_MAX_AGE_SECONDS,
        )
        self.latency_p99_ms = LookedUpGauge(
            "analytics_usage_latency_p99_ms",
            "99th percentile of the last 5 minutes' latencies.",
            by_model,
            registry=registry,
            max_age_seconds=_RECENT_MAX_AGE_SECONDS,
        )
        self.invocations = LookedUpGauge(
            "analytics_usage_recent_invocations",
            "Calls of the last 5 minutes.",
            by_model,
            registry=registry,
            max_age_seconds=_RECENT_MAX_AGE_SECONDS,
        )
        self.gauges_last_success = Gauge(
            "analytics_gauges_last_success_timestamp",
            "Unix time at which the gauges of usage were last refreshed, 0 before the first.",
            registry=registry,
        )
        self.series_left_out = LookedUpGauge(
            "analytics_usage_series_left_out",
            "Models beyond METRICS_MAX_SERIES, the least busy.",
            registry=registry,
            max_age_seconds=_RECENT_MAX_AGE_SECONDS,
        )
        self.rollup_rows = LookedUpGauge(
            "analytics_rollup_rows",
            "Rollups by dimension (empty: models alone) and grain, as the planner estimates them.",
            ["dimension", "grain"],
            registry=registry,
        )
        self.event_partitions = LookedUpGauge(
            "analytics_event_partitions_ahead",
            "Days ahead of today that have a partition; -1 with TimescaleDB.",
            registry=registry,
        )
        self.pruned_keys = Counter(
            "analytics_dedupe_keys_pruned",
            "Dedupe keys removed after DEDUPE_WINDOW.",
            registry=registry,
        )
        self.dedupe_parts = LookedUpGauge(
            "analytics_dedupe_parts",
            "Closed parts of the ledger of dedupe keys, all and those that have no filter yet.",
            ["state"],
            registry=registry,
        )
        self.dedupe_keys = LookedUpGauge(
            "analytics_dedupe_keys",
            "Dedupe keys, about.",
            registry=registry,
        )


class ExportMetrics(WorkerMetrics):
    """What the export worker exports."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry, "export_worker")
        self.jobs = LookedUpGauge(
            "analytics_export_jobs",
            "Export jobs by state.",
            ["status"],
            registry=registry,
        )
        self.oldest_pending_seconds = LookedUpGauge(
            "analytics_export_oldest_pending_seconds",
            "Age of the oldest job that waits for a worker; 0 when none.",
            registry=registry,
        )
        self.oldest_running_seconds = LookedUpGauge(
            "analytics_export_oldest_running_seconds",
            "How long ago the oldest running job was first taken; 0 when none.",
            registry=registry,
        )
        self.seconds = Histogram(
            "analytics_export_seconds",
            "One attempt that succeeded, from claim to the job's last write.",
            buckets=_EXPORT_SECONDS,
            registry=registry,
        )
        self.rows = Counter("analytics_export_rows", "Rows of delivered files.", registry=registry)
        self.bytes = Counter("analytics_export_bytes", "Bytes of delivered objects.", registry=registry)
        self.failures = Counter(
            "analytics_export_failures",
            "Attempts that failed, by reason.",
            ["reason"],
            registry=registry,
        )
        for reason in EXPORT_FAILURE_REASONS:
            self.failures.labels(reason=reason)
        self.failures_in_a_row = Gauge(
            "analytics_export_failures_in_a_row",
            "This worker's attempts that failed since the last that succeeded.",
            registry=registry,
        )
        self.objects_removed = Counter(
            "analytics_export_objects_removed",
            "Objects removed: of expired jobs, and what lost attempts left.",
            registry=registry,
        )
        self.last_success = Gauge(
            "analytics_export_last_success_timestamp",
            "Unix time of the last completed look for jobs, even if none; 0 before the first.",
            registry=registry,
        )


class GatewayMetrics(CommonMetrics):
    """What the gateway exports, summed over its gunicorn workers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry, "gateway")
        route = ["route", "method"]
        self.requests = Counter(
            "analytics_http_requests",
            "Answers by route template, method and status.",
            [*route, "status"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "analytics_http_request_seconds",
            "From a request's headers to its answer.",
            route,
            buckets=_REQUEST_SECONDS,
            registry=registry,
        )
        self.signature_refusals = Counter(
            "analytics_signature_refusals",
            "Requests without a proof that they come from the proxy, by what is wrong with it.",
            ["reason"],
            registry=registry,
        )
        self.cache_reads = Counter(
            "analytics_freshness_cache_reads",
            "Looks into the freshness cache: hit or miss.",
            ["result"],
            registry=registry,
        )
