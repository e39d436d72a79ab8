"""A client of the gateway for tests and the demo; decimals stay exact."""

import json
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import urllib3

ADMIN = {"X-Actor-Subject": "operator", "X-Actor-Roles": "admin"}


class Api:
    """Speaks to one gateway as one actor (an administrator by default)."""

    def __init__(self, gateway_url: str, actor: Mapping[str, str] = ADMIN) -> None:
        self._base = gateway_url.rstrip("/")
        self._actor = dict(actor)
        self._pool = urllib3.PoolManager(retries=False, timeout=30)

    def call(self, method: str, path: str, **options: Any) -> urllib3.BaseHTTPResponse:
        """Send a request with the actor's headers; see urllib3's request() for the options."""
        headers = self._actor | dict(options.pop("headers", {}))
        return self._pool.request(method, f"{self._base}{path}", headers=headers, redirect=False, **options)

    def get(self, path: str, **parameters: str) -> Any:
        """Return the JSON answer of a GET. Raises AssertionError with the problem on any other status."""
        answer = self.call("GET", f"/analytics/v1{path}", fields=parameters)
        assert answer.status == 200, f"GET {path} answered {answer.status}: {answer.data.decode()}"
        return json.loads(answer.data, parse_float=Decimal)

    def usage(self, org_id: str, start: datetime, end: datetime, **parameters: str) -> Any:
        """Return the usage answer of an organisation over [start, end)."""
        window = {"start": _utc_text(start), "end": _utc_text(end)}
        return self.get(f"/orgs/{org_id}/usage", **window, **parameters)


def _utc_text(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")


def wait_until(
    condition: Callable[[], bool],
    *,
    seconds: float,
    what: str | Callable[[], str],
    every_seconds: float = 0.2,
) -> None:
    """Poll until the condition holds. Raises AssertionError that names what it waited for, evaluated then."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s in vain for {what() if callable(what) else what}")
        time.sleep(every_seconds)
