"""A gateway in processes of its own, asked over HTTP; every answer is held against openapi.yaml."""

from collections.abc import Mapping
from typing import cast

import urllib3
from falcon import testing

from tests.support.gateway_app import Gateway


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

    def _send(
        self, method: str, quoted: str, query: str, body: bytes | None, headers: Mapping[str, str]
    ) -> testing.Result:
        target = self._url + quoted + (f"?{query}" if query else "")
        answer = self._http.request(method, target, body=body, headers=headers, redirect=False)
        return cast(testing.Result, _Answer(answer))
