"""The gateway's application for tests, over real servers; every answer is held against openapi.yaml."""

import json
import re
import uuid
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import yaml
from falcon import testing
from jsonschema import Draft202012Validator, FormatChecker

from deploy.local.traffic import org
from gateway.app import create_app
from shared.clock import Clock, utc_now
from shared.settings import GatewaySettings, load

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = yaml.safe_load((ROOT / "gateway" / "openapi.yaml").read_text(encoding="utf-8"))
PREFIX = "/analytics/v1"
READ = "analytics:usage:read"
JSON = {"Content-Type": "application/json"}

ADMIN = {"X-Actor-Subject": "operator", "X-Actor-Roles": "admin"}
OWNER = {"X-Actor-Subject": "reader", "X-Actor-Roles": READ, "X-Actor-Orgs": org(0)}
"""May read organisation 0 and no other."""

formats = FormatChecker()


def _is_instant(text: object) -> bool:
    return not isinstance(text, str) or (text.endswith("Z") and bool(datetime.fromisoformat(text)))


def _is_uuid(text: object) -> bool:
    return not isinstance(text, str) or str(uuid.UUID(text)) == text


def _is_local(text: object) -> bool:
    return not isinstance(text, str) or datetime.fromisoformat(text).tzinfo is not None


formats.checks("date-time", raises=ValueError)(_is_instant)
formats.checks("local-date-time", raises=ValueError)(_is_local)
formats.checks("uuid", raises=ValueError)(_is_uuid)


class Gateway:
    """One application as its process would build it, with the gateway's own database login."""

    def __init__(self, environ: Mapping[str, str], *, clock: Clock = utc_now, **settings: str) -> None:
        values = {**environ, "DATABASE_URL": environ["GATEWAY_DATABASE_URL"], **settings}
        self.app = create_app(load(GatewaySettings, values), clock)
        self._client = testing.TestClient(self.app)

    @classmethod
    def without_servers(cls, clock: Clock = utc_now, **settings: str) -> Self:
        """Return a gateway whose servers are not there, for what needs none."""
        nowhere = "127.0.0.1:1"
        environ = {
            "GATEWAY_DATABASE_URL": f"postgresql://nobody@{nowhere}/none",
            "REDIS_URL": f"redis://{nowhere}/0",
            "S3_ENDPOINT": nowhere,
            "S3_ACCESS_KEY": "x",
            "S3_SECRET_KEY": "x",
        }
        return cls(environ, clock=clock, **settings)

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
        all_headers = {**({} if body is None else JSON), **actor, **(headers or {})}
        answer = self._send(method, quote(path, safe="/%"), query, body, all_headers)
        hold_to_document(method, path, answer)
        return answer

    def _send(
        self, method: str, quoted: str, query: str, body: bytes | None, headers: Mapping[str, str]
    ) -> testing.Result:
        return self._client.simulate_request(
            method,
            quoted,
            query_string=query,
            extras={"RAW_URI": f"{quoted}?{query}" if query else quoted},  # as gunicorn has it
            body=body,
            headers=headers,
        )

    def get(self, path: str, actor: Mapping[str, str] = OWNER, **parameters: str) -> Any:
        """Return the JSON answer of a GET that must be a 200; decimals stay exact."""
        query = "&".join(f"{name}={quote(value)}" for name, value in parameters.items())
        answer = self.call("GET", PREFIX + path, actor, query=query)
        assert answer.status_code == 200, answer.text
        return read(answer)


def read(answer: testing.Result) -> Any:
    """Return an answer's JSON with exact decimals."""
    return json.loads(answer.content, parse_float=Decimal)


def hold_to_document(method: str, path: str, answer: testing.Result) -> None:
    """Raise AssertionError or ValidationError where an answer is not what openapi.yaml promises."""
    status, content_type = answer.status_code, answer.headers.get("content-type", "").partition(";")[0]
    assert answer.headers["x-request-id"]
    if status in {204, 302, 304, 308}:
        assert answer.content == b""
        content_type = ""
    if method == "HEAD":
        assert answer.content == b""
        return
    if content_type == "application/problem+json":
        problem = read(answer)
        assert problem["status"] == status
        assert re.fullmatch(r"urn:problem:analytics:[a-z-]+", problem["type"])
        assert answer.headers["cache-control"] == "no-store"
        check(problem, DOCUMENT["components"]["schemas"]["Problem"])
    if status == 400 and method not in {"GET", "POST"}:
        return  # a method that HTTP does not know
    operation = None if status == 500 else _operation(method, path)  # nobody is promised a 500
    if operation is None:
        assert content_type == "application/problem+json" or method == "OPTIONS"
        return
    promised = operation["responses"].get(str(status))
    assert promised is not None, f"{method} {path} answered {status}, which openapi.yaml does not have"
    promised = _resolved(promised)
    assert content_type in promised.get("content", {"": None}), f"{status} with {content_type!r}"
    if content_type.endswith("json"):
        check(read(answer), promised["content"][content_type]["schema"])
    for name in promised.get("headers", {}):
        assert name.lower() in answer.headers, f"{status} lacks {name}"


def check(value: Any, schema: Mapping[str, Any]) -> None:
    """Raise ValidationError where a value breaks a schema of the document."""
    whole = {**schema, "components": DOCUMENT["components"]}
    Draft202012Validator(whole, format_checker=formats).validate(value)


def _operation(method: str, path: str) -> Any:
    for template, item in DOCUMENT["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
            return item.get(method.lower())
    return None


def _resolved(node: Any) -> Any:
    while "$ref" in node:
        target: Any = DOCUMENT
        for step in node["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        node = target
    return node


def assert_problem(answer: testing.Result, status: int, *fields: str) -> None:
    """Check a refusal's status and, where given, the fields it names."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    if fields:
        assert [fault["field"] for fault in read(answer)["errors"]] == list(fields)


def utc_text(instant: datetime) -> str:
    """Write an instant in UTC as the API does."""
    return instant.isoformat().replace("+00:00", "Z")
