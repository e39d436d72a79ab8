"""A real Prometheus and Alertmanager over a fleet, and a webhook that keeps what it receives."""

import http.server
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import urllib3
import yaml

from deploy.local import servers
from deploy.local.alert_rules import shortened
from deploy.local.machine import free_ports

_INTERVAL = "1s"

_http = urllib3.PoolManager(retries=False, timeout=10)


class Webhook:
    """Listens on loopback and keeps the firing alerts it is sent."""

    def __init__(self) -> None:
        self.alerts: list[dict[str, Any]] = []
        alerts = self.alerts

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                alerts.extend(alert for alert in body["alerts"] if alert["status"] == "firing")
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Write nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


class Monitoring:
    """Prometheus with the alert rules, each duration divided, and an Alertmanager that calls a webhook.

    targets: the URL of each process's metrics, without the path, by scrape job. A context manager.
    """

    def __init__(self, folder: Path, targets: Mapping[str, str], *, divisor: int) -> None:
        self.webhook = Webhook()
        self._folder = folder
        alertmanager, prometheus = free_ports(2)
        self.url = f"http://127.0.0.1:{prometheus}"
        self._servers: list[servers.Server] = []
        (folder / "alerts.yaml").write_text(shortened(divisor))
        self._write(
            "prometheus.yaml",
            {
                "global": {"scrape_interval": _INTERVAL, "scrape_timeout": _INTERVAL,
                           "evaluation_interval": _INTERVAL},
                "rule_files": ["alerts.yaml"],
                "alerting": {"alertmanagers": [_targets(f"127.0.0.1:{alertmanager}")]},
                "scrape_configs": [
                    {"job_name": job, **_targets(url.removeprefix("http://"))} for job, url in targets.items()
                ],
            },
        )  # fmt: skip
        self._write(
            "alertmanager.yaml",
            {
                "route": {
                    "receiver": "test",
                    "group_by": ["..."],
                    "group_wait": "100ms",
                    "group_interval": "500ms",
                },
                "receivers": [{"name": "test", "webhook_configs": [{"url": self.webhook.url}]}],
            },
        )
        self._start("prometheus-alertmanager", alertmanager, f"--storage.path={folder}/alertmanager",
                    f"--config.file={folder}/alertmanager.yaml", "--cluster.listen-address=")  # fmt: skip
        self._start("prometheus", prometheus, f"--storage.tsdb.path={folder}/prometheus",
                    f"--config.file={folder}/prometheus.yaml")  # fmt: skip

    def query(self, promql: str) -> list[dict[str, Any]]:
        """Return the instant vector of a query. Raises AssertionError with Prometheus's answer."""
        return self._ask("query", query=promql)

    def query_range(self, promql: str, start: float, end: float) -> list[dict[str, Any]]:
        """Return the series of a query from start to end (Unix time) in steps of a second."""
        return self._ask("query_range", query=promql, start=str(start), end=str(end), step="1")

    def rule_faults(self) -> list[str]:
        """Return the rules that Prometheus did not evaluate well, with its reason."""
        groups = _http.request("GET", f"{self.url}/api/v1/rules").json()["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert rules
        return [f"{rule['name']}: {rule.get('lastError')}" for rule in rules if rule["health"] != "ok"]

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire or did so within the last five seconds."""
        found = self.query('count_over_time(ALERTS{alertstate="firing"}[5s])')
        return {alert["metric"]["alertname"] for alert in found}

    def _ask(self, kind: str, **fields: str) -> list[dict[str, Any]]:
        answer = _http.request("POST", f"{self.url}/api/v1/{kind}", fields=fields).json()
        assert answer["status"] == "success", f"{fields['query']}: {answer.get('error')}"
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def _write(self, name: str, content: dict[str, Any]) -> None:
        (self._folder / name).write_text(yaml.safe_dump(content))

    def _start(self, program: str, port: int, *options: str) -> None:
        command = [program, *options, f"--web.listen-address=127.0.0.1:{port}"]
        log = self._folder / f"{program}.log"
        server = servers.start(
            program, command, log, folder=self._folder, environ=os.environ, as_server_user=False
        )
        self._servers.append(server)
        server.wait_ready(lambda: _answers(f"http://127.0.0.1:{port}/-/ready"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for server in reversed(self._servers):
            server.stop()
        self.webhook.close()


def _targets(address: str) -> dict[str, Any]:
    return {"static_configs": [{"targets": [address]}]}


def _answers(url: str) -> bool:
    try:
        return _http.request("GET", url).status == 200
    except urllib3.exceptions.HTTPError:
        return False
