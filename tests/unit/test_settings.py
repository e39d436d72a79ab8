"""Settings: declared once, checked at start, every fault at once, secrets never shown."""

import subprocess
import sys
from datetime import timedelta

import pytest

from shared.errors import SettingsError
from shared.settings import (
    ExportWorkerSettings,
    GatewaySettings,
    IngestorSettings,
    RollupWorkerSettings,
    duration,
    endpoint,
    load,
    masked,
)

DATABASE = "postgresql://ingestor:hunter2@db.example:5432/analytics"
BROKER = "amqp://fleet:hunter3@mq.example:5672/%2F"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("500ms", timedelta(milliseconds=500)),
        ("30s", timedelta(seconds=30)),
        ("5m", timedelta(minutes=5)),
        ("24h", timedelta(hours=24)),
        ("90d", timedelta(days=90)),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, expected: timedelta) -> None:
    assert duration(text) == expected


@pytest.mark.parametrize(
    "text", ["", "30", "s", "1.5h", "-5m", "30 s", "30S", "1w", "0s", "٣s", "999999999d"]
)
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|more than zero|longer"):
        duration(text)


@pytest.mark.parametrize(
    "text", ["s3.example", "s3.example:9000", "http://127.0.0.1:8333", "https://s3.example/"]
)
def test_an_endpoint_is_a_host_or_a_url_without_a_path(text: str) -> None:
    assert endpoint(text) == text.rstrip("/")


@pytest.mark.parametrize("text", ["https://s3.example/bucket", "ftp://s3.example", "user@host", "host:port"])
def test_anything_else_is_no_endpoint(text: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        endpoint(text)


def test_every_fault_is_listed_at_once() -> None:
    environ = {"METRICS_PORT": "70000", "INGESTION_BATCH_TIMEOUT": "soon", "RABBITMQ_URL": "http://mq"}
    with pytest.raises(SettingsError) as caught:
        load(IngestorSettings, environ)
    message = str(caught.value)
    for name in ("METRICS_PORT", "INGESTION_BATCH_TIMEOUT", "RABBITMQ_URL", "DATABASE_URL is missing"):
        assert name in message
    assert len(caught.value.faults) == 4


def test_an_empty_variable_counts_as_absent() -> None:
    settings = load(RollupWorkerSettings, {"DATABASE_URL": DATABASE, "ROLLUP_INTERVAL": ""})
    assert settings.rollup_interval == timedelta(milliseconds=500)


def test_the_contract_names_these_defaults() -> None:
    s3 = {"S3_ENDPOINT": "s3.example", "S3_ACCESS_KEY": "k", "S3_SECRET_KEY": "s"}
    gateway = load(GatewaySettings, {"DATABASE_URL": DATABASE, "REDIS_URL": "redis://cache", **s3})
    worker = load(ExportWorkerSettings, {"DATABASE_URL": DATABASE, **s3})
    rollup = load(RollupWorkerSettings, {"DATABASE_URL": DATABASE})
    assert (gateway.http_port, gateway.enable_rbac, gateway.org_binding) == (8084, True, "strict")
    assert (gateway.s3_bucket, gateway.s3_region) == ("analytics-exports", "us-east-1")
    assert (gateway.signed_url_ttl, worker.retention) == (timedelta(hours=24), timedelta(days=90))
    assert (worker.concurrency, worker.interval) == (2, timedelta(seconds=30))
    assert (rollup.event_retention, rollup.rollup_retention) == (timedelta(days=400), timedelta(days=400))
    assert rollup.dedupe_window == timedelta(days=35)


def test_the_masked_configuration_shows_hosts_and_no_secret() -> None:
    shown = masked(load(IngestorSettings, {"DATABASE_URL": DATABASE, "RABBITMQ_URL": BROKER}))
    assert shown["DATABASE_URL"] == "postgresql://***@db.example:5432/analytics"
    assert "hunter" not in str(shown)


@pytest.mark.parametrize("module", ["ingestor", "rollup_worker", "export_worker", "shared.migrate"])
def test_a_process_with_bad_settings_ends_with_code_2_and_names_them(module: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", module],
        env={"LOG_LEVEL": "loud"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 2
    assert "LOG_LEVEL" in ended.stderr
    assert "DATABASE_URL is missing" in ended.stderr
    assert "Traceback" not in ended.stderr
