"""gunicorn's configuration: processes with threads, bounded requests, metrics summed over processes."""

import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from shared.settings import GatewaySettings, load_or_exit

_settings = load_or_exit(GatewaySettings, os.environ)

# prometheus_client chooses its storage when it is first imported. The counts of an earlier run must go.
_metrics_folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
if _metrics_folder is None:
    _metrics_folder = os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="gateway-metrics-")
Path(_metrics_folder).mkdir(parents=True, exist_ok=True)
for _old in Path(_metrics_folder).glob("*.db"):
    _old.unlink()

from gateway import server  # noqa: E402  prometheus_client comes with it
from shared.logs import configure_logs, log_start  # noqa: E402

bind = f"0.0.0.0:{_settings.http_port}"
workers = _settings.workers
worker_class = server.Worker
threads = 16
timeout = 60
graceful_timeout = 25
keepalive = 15
limit_request_line = 8190
limit_request_fields = 64
limit_request_field_size = 32_768  # X-Actor-Orgs may name hundreds of organisations
control_socket_disable = True
# No header tells under which path, scheme or address this is reached: of those that a proxy before it
# sets, only the actor's are believed, and they are the application's business.
forwarder_headers = ""
secure_scheme_headers: dict[str, str] = {}
os.environ.pop("SCRIPT_NAME", None)
pre_request = server.mark_repeated_headers
# gunicorn's own messages take the way of ours.
logger_class = server.ServerLog
logconfig_dict = {
    "root": {"level": "INFO", "handlers": []},
    "loggers": {"gunicorn.error": {"handlers": [], "propagate": True}},
}


def on_starting(_arbiter: Any) -> None:
    """Say with which settings the gateway starts."""
    log = configure_logs(_settings, "gateway")
    log_start(log, _settings, os.environ)
    server.install_problems()
    logging.getLogger("gunicorn.error").addFilter(server.is_no_silent_client)


def child_exit(_arbiter: Any, worker: Any) -> None:
    """Forget a dead worker's gauges; its counters stay, so that sums never fall."""
    from prometheus_client import multiprocess  # noqa: PLC0415  only with the folder set

    multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]  # prometheus_client has no types here


def on_exit(_arbiter: Any) -> None:
    """Leave nothing behind."""
    shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)
