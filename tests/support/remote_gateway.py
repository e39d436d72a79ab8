"""A gateway in processes of its own, asked over HTTP; every answer is held against openapi.yaml."""

from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import quote

import urllib3
from falcon import testing

from tests.support.gateway_app import JSON, OWNER, Gateway, hold_to_document


class _Answer:
    """What the tests read of an answer, under the names that falcon's own client has for it."""

    def __init__(self, answer: urllib3.BaseHTTPResponse) -> None:
        self.status_code = answer.status
        self.headers = {name.lower(): value for name, value in answer.headers.items()}
        self.content = answer.data

    @property
    def text(self) -> str:
        return self.content.decode()


class RemoteGateway(Gateway):
    """As Gateway, for a process that runs already."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._http = urllib3.PoolManager(retries=False, timeout=60, maxsize=2)

    def call(
        self,
        method: str,
        path: str,
        actor: Mapping[str, str] = OWNER,
        *,
        query: str = "",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> testing.Result:
        """Send a request. path: not yet percent-encoded."""
        target = quote(path, safe="/%") + (f"?{query}" if query else "")
        all_headers: dict[str, Any] = {**({} if body is None else JSON), **actor, **(headers or {})}
        answer = self._http.request(
            method, self._url + target, body=body, headers=all_headers, redirect=False
        )
        found = cast(testing.Result, _Answer(answer))
        hold_to_document(method, path, found)
        return found
