"""Settings: declared once, checked at start, every fault at once, secrets never shown."""

import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import SettingsError
from shared.settings import (
    NAMES,
    PROCESSES,
    ExportWorkerSettings,
    GatewaySettings,
    IngestorSettings,
    KeptDimension,
    RollupWorkerSettings,
    load,
    misspelt,
)
from shared.settings.values import parse_duration

DATABASE = "postgresql://ingestor:hunter2@db.example:5432/analytics"
BROKER = "amqp://fleet:hunter3@mq.example:5672/%2F"
S3 = {"S3_ENDPOINT": "s3.example", "S3_ACCESS_KEY": "hunter4", "S3_SECRET_KEY": "hunter5"}
GATEWAY = {"DATABASE_URL": DATABASE, "REDIS_URL": "redis://:hunter6@cache.example", **S3}
COMPLETE: dict[str, dict[str, str]] = {
    "gateway": GATEWAY,
    "ingestor": {"DATABASE_URL": DATABASE, "RABBITMQ_URL": BROKER},
    "rollup worker": {"DATABASE_URL": DATABASE},
    "export worker": {"DATABASE_URL": DATABASE, **S3},
    "migrate": {"DATABASE_URL": DATABASE},
}


def reader(name: str) -> str:
    """Return a process that reads a setting."""
    return next(
        process
        for process, settings_class in PROCESSES.items()
        if name in {declared.name for declared in settings_class.declared().values()}
    )


def faults(**changes: str) -> list[str]:
    """Return the faults of a configuration that is complete but for these settings."""
    process = reader(next(iter(changes)))
    try:
        load(PROCESSES[process], COMPLETE[process] | changes)
    except SettingsError as error:
        return error.faults
    return []


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
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    "text", ["", "30", "s", "1.5h", "-5m", "30 s", "30S", "1w", "٣s", "1000000000d", "1e3s"]
)
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("S3_ENDPOINT", "s3.example:9000"),
        ("S3_ENDPOINT", "http://127.0.0.1:8333"),
        ("S3_ENDPOINT", "https://s3.example/"),
        ("S3_ENDPOINT", "https://s3.us-east-1.amazonaws.com"),
        ("S3_BUCKET", "exports.of-2026"),
        ("RABBITMQ_QUEUE", "ü" * 127),
        ("RABBITMQ_EXCHANGE", "amq.topic"),
        ("RABBITMQ_URL", "amqps://u:p%40%2F@mq.example/%2Fa?heartbeat=30&frame_max=131072"),
        ("RABBITMQ_URL", "amqp://mq"),
        ("RABBITMQ_URL", "amqp://u:p@mq-1:5672,mq-2:5673,mq-3/%2Fa?frame_max=131072"),
        ("RABBITMQ_URL", "amqps://[::1]:5671,[::1]:5672"),
        ("DATABASE_URL", "postgres://u@[::1]:5432/db?sslmode=verify-full&application_name=x"),
        ("DATABASE_URL", "postgresql://h1:5432,h2:5433/db?target_session_attrs=read-write"),
        ("REDIS_URL", "rediss://user:p@cache:6380/3?ssl_cert_reqs=required"),
        ("REDIS_URL", "redis://cache/?db=2"),
        ("EXPORT_SIGNED_URL_TTL", "7d"),
        ("EXPORT_LEASE", "1s"),
        ("ENABLE_RBAC", "TRUE"),
    ],
)
def test_what_the_servers_take_is_taken(name: str, value: str) -> None:
    assert faults(**{name: value}) == []


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("S3_ENDPOINT", "s3.example:99999", "from 1 to 65535"),
        ("S3_ENDPOINT", "s3.example:0", "from 1 to 65535"),
        ("S3_ENDPOINT", "https://s3.example/bucket", "without a path"),
        ("S3_ENDPOINT", "ftp://s3.example", "host:port"),
        ("S3_ENDPOINT", "host:port", "host:port"),
        ("S3_ENDPOINT", "-s3.example", "host:port"),
        ("S3_ENDPOINT", "a..b", "host:port"),
        ("S3_ENDPOINT", "files.amazonaws.com", "not the host"),
        ("S3_BUCKET", "Exports", "3 to 63"),
        ("S3_BUCKET", "ab", "3 to 63"),
        ("S3_BUCKET", "a" * 64, "3 to 63"),
        ("S3_BUCKET", "exports_of", "3 to 63"),
        ("S3_BUCKET", "a..b", "beside each dot"),
        ("S3_BUCKET", "10.0.0.1", "not an IP"),
        ("S3_REGION", "us east", "region"),
        ("S3_ACCESS_KEY", "schlüssel", "ASCII"),
        ("RABBITMQ_QUEUE", "q" * 256, "at most 255"),
        ("RABBITMQ_QUEUE", "ü" * 128, "at most 255"),
        ("RABBITMQ_DEAD_LETTER_EXCHANGE", "x" * 256, "at most 255"),
        ("RABBITMQ_QUEUE", "amq.topic", "amq."),
        ("RABBITMQ_EXCHANGE", "amq.events", "amq."),
        ("RABBITMQ_URL", "http://mq", "amqp://"),
        ("RABBITMQ_URL", "amqp://mq/a/b", "virtual host"),
        ("RABBITMQ_URL", "amqp://mq:0/", "port"),
        ("RABBITMQ_URL", "amqp://mq-1:5672,mq-2:0/", "port"),
        ("RABBITMQ_URL", "amqp://mq-1:5672,,mq-2/", "names a host"),
        ("RABBITMQ_URL", "amqp://u:p@mq-1,u:p@mq-2/", "percent-encoded"),
        ("RABBITMQ_URL", "amqp://mq:x/", "port"),
        ("RABBITMQ_URL", "amqp://user@mq/", "no password"),
        ("RABBITMQ_URL", "amqp://mq/?heartbeat=abc", "option heartbeat"),
        ("RABBITMQ_URL", "amqp://mq/?heartbeat=1&heartbeat=2", "twice"),
        ("RABBITMQ_URL", "amqp://mq/?frame_max=1", "option frame_max"),
        ("RABBITMQ_URL", "amqp://mq/?ssl_options=[[[", "option ssl_options"),
        ("RABBITMQ_URL", "amqp://mq/?ssl_options={'ca_certs':'/nowhere'}", "option ssl_options"),
        ("RABBITMQ_URL", "amqp://mq/?unheard_of=1", "option unheard_of"),
        ("DATABASE_URL", "postgresql://h/db?unheard_of=1", "unheard_of"),
        ("DATABASE_URL", "postgresql://h/db?sslmode=sure", "sslmode"),
        ("DATABASE_URL", "postgresql://h/db?target_session_attrs=write", "target_session_attrs"),
        ("DATABASE_URL", "postgresql://h1,h2/db?target_session_attrs=any", "primary, read-write"),
        ("DATABASE_URL", "postgresql://h/db?target_session_attrs=prefer-standby", "primary, read-write"),
        ("DATABASE_URL", "postgresql://h:99999/db", "port"),
        ("DATABASE_URL", "postgresql://h1:1,h2:2,h3/db?port=1,2", "2 ports for 3 hosts"),
        ("DATABASE_URL", "mysql://h/db", "postgresql://"),
        ("DATABASE_URL", "postgresql:///db", "names a host"),
        ("DATABASE_URL", "postgresql://[::1/db", "cannot be read|can be read"),
        ("REDIS_URL", "redis://cache/?socket_timeout=60", "option"),
        ("REDIS_URL", "redis://cache/?unheard_of=1", "option"),
        ("REDIS_URL", "redis://cache/?db=x", "option db"),
        ("REDIS_URL", "redis://cache/?db=1&db=2", "twice"),
        ("REDIS_URL", "redis://cache/?ssl_cert_reqs=none", "option"),
        ("REDIS_URL", "redis://cache/one", "path"),
        ("REDIS_URL", "redis://cache:99999", "port"),
        ("EXPORT_SIGNED_URL_TTL", "500ms", "1s to 7d"),
        ("EXPORT_SIGNED_URL_TTL", "8d", "1s to 7d"),
        ("EXPORT_LEASE", "1ms", "1s to 1h"),
        ("ROLLUP_INTERVAL", "400d", "10ms to 1h"),
        ("EVENT_RETENTION", "1s", "1d to"),
        ("ROLLUP_RETENTION", "1h", "1d to"),
        ("DEDUPE_WINDOW", "0s", "1m to"),
        ("DEDUPE_WINDOW", "999999999d", "1m to"),
        ("INGESTION_BATCH_TIMEOUT", "2h", "1ms to 1h"),
        ("METRICS_PORT", "70000", "1 to 65535"),
        ("METRICS_PORT", "٩١٠١", "1 to 65535"),
        ("WEB_CONCURRENCY", "0", "1 to 64"),
        ("LOG_LEVEL", "loud", "none of debug"),
        ("LOG_LEVEL", "info\n", "line break"),
        ("LOG_LEVEL", "info ", "white space"),
        ("RABBITMQ_QUEUE", "q\x00", "control character"),
        ("RABBITMQ_QUEUE", "q\u2028", "control character"),
        ("RABBITMQ_QUEUE", b"q\xff".decode(errors="surrogateescape"), "not UTF-8"),
        ("S3_SECRET_KEY", "k" * 5_000_000, "characters"),
    ],
)
def test_what_a_server_would_refuse_is_refused_at_start(name: str, value: str, why: str) -> None:
    [fault] = faults(**{name: value})
    assert fault.startswith(f"{name} ")
    assert why.partition("|")[2] in fault or why in fault
    assert len(fault) < 300
    assert fault.isprintable()


@pytest.mark.parametrize("name", sorted(NAMES))
@given(text=st.text(min_size=1, max_size=60).map(lambda text: f"hunter{text}"))
def test_no_text_does_worse_than_a_fault_on_one_line_that_names_the_setting(name: str, text: str) -> None:
    for fault in faults(**{name: text}):
        assert fault.startswith(f"{name} ")
        assert fault.isprintable()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "postgresql://u:hunter%zz@h/db"),
        ("DATABASE_URL", "postgresql://u:hunter@2@h/db"),
        ("DATABASE_URL", "postgresql://u:12/hunter@h/db"),
        ("DATABASE_URL", "postgresql://u:12#hunter@h/db"),
        ("DATABASE_URL", "postgresql://u:p@h/db?sslpassword=hunter&hunter=1"),
        ("RABBITMQ_URL", "amqp://u:hunter/x@mq/"),
        ("RABBITMQ_URL", "amqp://u:p@mq/?ssl_options={'password':'hunter'}"),
        ("RABBITMQ_URL", "https://u:hunter@mq/"),
        ("REDIS_URL", "redis://:hunter@cache/?hunter=hunter"),
        ("S3_ENDPOINT", "https://key:hunter@s3.example"),
        ("S3_SECRET_KEY", "hunter\n"),
        ("S3_SECRET_KEY", "hunter hunter"),
        ("METRICS_PORT", "postgresql://u:hunter@h/db"),
    ],
)
def test_a_fault_shows_no_secret(name: str, value: str) -> None:
    [fault] = faults(**{name: value})
    assert "hunter" not in fault.replace("names hunter, which is no parameter", "")


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
    gateway = load(GatewaySettings, GATEWAY)
    worker = load(ExportWorkerSettings, {"DATABASE_URL": DATABASE, **S3})
    rollup = load(RollupWorkerSettings, {"DATABASE_URL": DATABASE})
    assert (gateway.http_port, gateway.enable_rbac, gateway.org_binding) == (8084, True, "strict")
    assert (gateway.s3_bucket, gateway.s3_region) == ("analytics-exports", "us-east-1")
    assert (gateway.signed_url_ttl, worker.retention) == (timedelta(hours=24), timedelta(days=90))
    assert (worker.concurrency, worker.interval) == (2, timedelta(seconds=30))
    assert (rollup.event_retention, rollup.rollup_retention) == (timedelta(days=400), timedelta(days=400))
    assert rollup.dedupe_window == timedelta(days=35)


def test_refused_events_must_not_come_back_as_events() -> None:
    alike = faults(RABBITMQ_QUEUE="q", RABBITMQ_DEAD_LETTER_QUEUE="q", METRICS_PORT="x")
    assert [fault.split()[0] for fault in alike] == ["METRICS_PORT", "RABBITMQ_DEAD_LETTER_QUEUE"]
    [fault] = faults(RABBITMQ_EXCHANGE="analytics.usage.dlx")
    assert "RABBITMQ_DEAD_LETTER_EXCHANGE" in fault


@pytest.mark.parametrize("process", PROCESSES)
def test_the_masked_configuration_shows_hosts_and_no_secret(process: str) -> None:
    settings: Any = load(PROCESSES[process], COMPLETE[process])
    assert settings.masked["DATABASE_URL"] == "postgresql://***@db.example:5432/analytics"
    assert "hunter" not in f"{settings.masked}"
    assert "hunter" not in str(settings.masked)


def test_the_masked_configuration_shows_every_value_as_it_is_written() -> None:
    settings = load(RollupWorkerSettings, {"DATABASE_URL": DATABASE, "DEDUPE_WINDOW": "240h"})
    assert settings.masked["DEDUPE_WINDOW"] == "240h"
    assert settings.masked["EVENT_RETENTION"] == "400d"
    assert load(GatewaySettings, GATEWAY | {"S3_SECURE": "False"}).masked["S3_SECURE"] == "False"


def test_several_hosts_of_a_database_are_shown() -> None:
    url = "postgresql://u:hunter2@h1:5432,h2:5433/db?sslpassword=hunter3"
    settings = load(RollupWorkerSettings, {"DATABASE_URL": url})
    assert settings.masked["DATABASE_URL"] == "postgresql://***@h1:5432,h2:5433/db"


def test_a_setting_that_is_spelt_wrong_is_noticed() -> None:
    environ = {"ROLLUP_RETENTON": "1d", "LOG_LEVLE": "debug", "DATABASE_URLS": "x", "DATABASE_URL": DATABASE}
    assert misspelt(environ, NAMES) == {"ROLLUP_RETENTON": "ROLLUP_RETENTION", "LOG_LEVLE": "LOG_LEVEL"}


def test_what_the_fleet_and_its_neighbours_set_is_not_taken_for_a_slip() -> None:
    names = [
        "GATEWAY_DATABASE_URL", "INGESTOR_METRICS_PORT", "GATEWAY_URL", "EXPORT_WORKER_URL", "BUILD_COMMIT",
        "S3_REGION_NAME", "AWS_REGION", "HOSTNAME", "PATH", "PGHOST", "KUBERNETES_SERVICE_PORT", "PORT",
        "ANALYTICS_GATEWAY_PORT", "REDIS_PASSWORD", "EXPORT_WORKER_DATABASE_URL", "CONSOLE_URL",
    ]  # fmt: skip
    assert misspelt(dict.fromkeys(names, "x"), NAMES) == {}


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


def dimensions(text: str) -> tuple[KeptDimension, ...]:
    environ = {"DATABASE_URL": DATABASE, "ROLLUP_DIMENSIONS": text}
    return load(RollupWorkerSettings, environ).rollup_dimensions


def test_dimensions_are_named_with_the_grains_they_keep() -> None:
    assert dimensions("client,actor:day,metadata.region.eu-1:day:90d") == (
        KeptDimension("client"),
        KeptDimension("actor", keeps_hours=False),
        KeptDimension("metadata.region.eu-1", hours_kept=timedelta(days=90)),
    )
    default = load(RollupWorkerSettings, {"DATABASE_URL": DATABASE}).rollup_dimensions
    assert [each.name for each in default] == ["client", "apiKey", "provider", "operation", "actor"]
    assert [each.name for each in default if not each.keeps_hours] == ["actor"]


def test_empty_dimensions_mean_none_and_not_the_default() -> None:
    assert dimensions("") == ()


def test_all_faults_of_the_dimensions_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as raised:
        dimensions(
            "client,Client,actor:hour,metadata.,client,model,apiKey:day:30s,,metadata.a b,actor:day:1d:2d"
        )
    for fault in (
        "'Client' names none of", "'actor:hour' is not like name", "'metadata.' names none of",
        "names client twice", "'model' names none of", "'apiKey:day:30s' keeps hours for less than 1d",
        "'' names none of", "'metadata.a b' names none of", "'actor:day:1d:2d' is not like name",
    ):  # fmt: skip
        assert fault in str(raised.value), fault
    with pytest.raises(SettingsError, match="names 21 dimensions; at most 20 are kept"):
        dimensions(",".join(f"metadata.k{number}" for number in range(21)))
