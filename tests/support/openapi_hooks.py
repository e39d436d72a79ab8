"""Hooks for schemathesis (tests/integration/test_openapi_fuzz.py): what JSON Schema cannot say of a request.

A request that fits the document may still be refused, rightly: it ends before it starts, names two
dimensions, or a time zone that does not exist. Only what is meant to be valid is changed here, as far as such
a rule needs. Requests that are meant to be invalid are sent as they are.
"""

import base64
import binascii
import zlib
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import available_timezones

import schemathesis

from deploy.local.traffic import org
from tests.support.oracle import MEMBERS
from tests.support.questions import ZONES

TAG = "metadata.region"
"""The only key of metadata that the gateway of the test keeps."""

_ZONES = available_timezones()
_FILTERS = (*MEMBERS.values(), TAG)


@schemathesis.hook
def before_call(
    _context: schemathesis.HookContext, case: schemathesis.Case[Any], _kwargs: dict[str, Any]
) -> None:
    """Make a valid request one that keeps the rules between its parts, too."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    choice = zlib.crc32(repr((case.path_parameters, case.query, case.body)).encode())
    if case.path_parameters:
        _mend_path(case.path_parameters, choice)
    if case.query:
        _mend_query(case.query, choice)
    if case.path.endswith("/exports") and isinstance(case.body, dict):
        _mend_export(case.body, choice)
        if case.headers and "Idempotency-Key" in case.headers:
            # It belongs to one request.
            case.headers["Idempotency-Key"] = f"{choice}-{case.headers['Idempotency-Key'][:100]}"
    if case.path.endswith("/validate"):
        for event in case.body if isinstance(case.body, list) else [case.body]:
            if isinstance(event, dict):
                _mend_event(event, choice)


def _mend_path(given: dict[str, Any], choice: int) -> None:
    if "orgId" in given and choice % 4:
        given["orgId"] = org(choice % 3)
    if str(given.get("name", "")).startswith("metadata."):
        given["name"] = TAG


def _mend_query(query: dict[str, Any], choice: int) -> None:
    if {"start", "end"} <= query.keys():
        minutes = query.get("granularity") == "minute"
        query["start"], query["end"] = _window(
            query["start"], hours=3 if minutes else (3, 30, 500)[choice % 3]
        )
    if "timeZone" in query:
        query["timeZone"] = _zone(query["timeZone"], choice)
    tags = [name for name in query if name.startswith("metadata")]
    for name in tags:
        value = query.pop(name)
        if value:
            query[TAG] = next(iter(value.values())) if isinstance(value, dict) else value
    if "groupBy" in query:
        query["groupBy"] = _one_dimension(query["groupBy"])
    grouped = [name for name in str(query.get("groupBy", "")).split(",") if name in {*MEMBERS, TAG}]
    kept = (
        MEMBERS.get(grouped[0], TAG) if grouped else next((name for name in _FILTERS if name in query), None)
    )
    for name in _FILTERS:
        if name != kept:
            query.pop(name, None)
    if "cursor" in query and not _is_cursor(query["cursor"]):
        del query["cursor"]


def _one_dimension(text: str) -> str:
    """Return a groupBy with each name once, one dimension at most."""
    names = [TAG if name.startswith("metadata.") else name for name in text.split(",")]
    found: list[str] = []
    for name in dict.fromkeys(names):
        if name in {"org", "model", "none"} or not any(_is_dimension(name) for name in found):
            found.append(name)
    return ",".join(found)


def _is_dimension(name: str) -> bool:
    return name in {*MEMBERS, TAG}


def _window(start: object, *, hours: int) -> tuple[str, str]:
    """Return a window of this year that begins like the one that was given."""
    now = datetime.now(UTC)
    begin = now - timedelta(days=40)
    with suppress(ValueError, OverflowError):
        begin = datetime.fromisoformat(str(start)).replace(year=now.year)
    return begin.isoformat(), (begin + timedelta(hours=hours)).isoformat()


def _zone(name: str, choice: int) -> str:
    return name if name in _ZONES else ZONES[choice % len(ZONES)]


def _is_cursor(text: str) -> bool:
    with suppress(ValueError, binascii.Error):
        return len(base64.urlsafe_b64decode(text.encode()).split()) == 2
    return False


def _mend_export(body: dict[str, Any], choice: int) -> None:
    window = body["timeRange"]
    window["start"], window["end"] = _window(window["start"], hours=(3, 30, 500)[choice % 3])
    if "timeZone" in body:
        body["timeZone"] = _zone(body["timeZone"], choice)
    if "groupBy" in body:
        body["groupBy"] = _one_dimension(body["groupBy"])


def _mend_event(event: dict[str, Any], choice: int) -> None:
    if event["orgId"] == "00000000-0000-0000-0000-000000000000":
        event["orgId"] = org(0)
    for name, value in event.items():
        if isinstance(value, float) and name != "costEstimateCents" and value.is_integer():
            event[name] = int(value)  # JSON Schema takes 1.0 for an integer
    event["occurredAt"] = (datetime.now(UTC) - timedelta(minutes=choice % 500_000)).isoformat()
    for whole, parts in (
        ("inputTokens", ("cachedInputTokens", "cacheWriteInputTokens")),
        ("outputTokens", ("reasoningTokens",)),
        ("latencyMs", ("timeToFirstTokenMs",)),
    ):
        _at_most(event, parts, event[whole])


def _at_most(event: dict[str, Any], parts: Iterable[str], left: int) -> None:
    for part in parts:
        if event.get(part) is not None:
            event[part] = min(event[part], left)
            left -= event[part]
