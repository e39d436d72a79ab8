"""gunicorn's configuration: processes with threads, bounded requests, metrics summed over processes."""

import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from shared.settings import GatewaySettings, load_or_exit

_settings = load_or_exit(GatewaySettings, os.environ)


def _make_metrics_folder() -> Path:
    """Return a new folder of this process's own, inside the one that somebody chose if there is one.

    A reload (SIGHUP) keeps the folder, so that no count falls; a new gunicorn (SIGUSR2) makes one beside it.
    """
    name, own = "gateway-metrics-", f"gateway-metrics-{os.getpid()}-"
    chosen = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if not chosen:
        return Path(tempfile.mkdtemp(prefix=own))
    folder = Path(chosen)
    if folder.name.startswith(own):
        return folder
    parent = folder.parent if folder.name.startswith(name) else folder
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=own, dir=parent))


# prometheus_client chooses its storage when it is first imported.
_metrics_folder = _make_metrics_folder()
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(_metrics_folder)

import gateway.app  # noqa: E402, F401  once, before the fork: its workers share the memory and start sooner
from gateway.http import refusals, worker  # noqa: E402  prometheus_client comes with them
from shared import process_metrics  # noqa: E402, F401  before the fork: its workers have the same start times
from shared.logs import configure_logs, log_start  # noqa: E402

bind = f"0.0.0.0:{_settings.http_port}"
workers = _settings.workers
worker_class = worker.Worker
threads = 32
timeout = 60
graceful_timeout = 25
keepalive = 15
limit_request_line = 8190
limit_request_fields = 64
limit_request_field_size = 32_768  # X-Actor-Orgs may name hundreds of organisations
control_socket_disable = True
# No header decides under which path, scheme or address this is reached: of those that a proxy before it
# sets, only the actor's are believed, and they are the application's business.
forwarder_headers = ""
secure_scheme_headers: dict[str, str] = {}
os.environ.pop("SCRIPT_NAME", None)
pre_request = worker.prepare_request
# gunicorn's own messages take the way of ours.
logger_class = refusals.ServerLog
logconfig_dict = {
    "root": {"level": "INFO", "handlers": []},
    "loggers": {"gunicorn.error": {"handlers": [], "propagate": True}},
}


def on_starting(_arbiter: Any) -> None:
    """Log with which settings the gateway starts."""
    log = configure_logs(_settings, "gateway")
    log_start(log, _settings, os.environ)
    logging.getLogger("gunicorn.error").addFilter(refusals.is_no_silent_client)


def child_exit(_arbiter: Any, child: Any) -> None:
    """Forget a dead worker's gauges; its counters stay, so that sums never fall."""
    from prometheus_client import multiprocess  # noqa: PLC0415  only with the folder set

    multiprocess.mark_process_dead(child.pid)  # type: ignore[no-untyped-call]  # prometheus_client has no types here


def on_exit(_arbiter: Any) -> None:
    """Leave nothing behind, and remove nothing that this process did not make."""
    shutil.rmtree(_metrics_folder, ignore_errors=True)
