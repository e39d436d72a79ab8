"""Authorisation as a whole: every actor on every route, organisation and method, and the audit rows of it.

What is expected is the table in tests/support/access_table.py. A new route fails until it has a row there.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from falcon import inspect
from psycopg2.extensions import connection

from tests.support.access_table import (
    ACTORS,
    ALL_ORGS,
    ANY,
    CROSS,
    MALFORMED,
    NONE,
    OK,
    ORGS,
    PLATFORM,
    ROLES,
    ROUTES,
    UNBOUND,
    A,
    Actor,
    B,
    Call,
    U,
)
from tests.support.gateway_app import Gateway, read
from tests.support.raw_http import EVENT

EXPORT = json.dumps({"timeRange": {"start": "2026-11-01T00:00:00Z", "end": "2026-11-02T00:00:00Z"}}).encode()
JOBS = {
    A: "0aaaaaaa-0000-4000-8000-000000000000",
    B: "0bbbbbbb-0000-4000-8000-000000000000",
}
OFF = (ACTORS[0], ACTORS[7], ACTORS[-1])
"""Who asks where nothing is checked: it makes no difference."""

NO_JOB = "0ccccccc-0000-4000-8000-000000000000"


HTTP_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"}


@pytest.fixture(autouse=True)
def _folder_of_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """gunicorn's configuration makes one for /metrics; here there is no gunicorn."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))


@pytest.fixture
def jobs(owner: connection) -> None:
    """A file that can be fetched, of A and of B."""
    with owner.cursor() as cur:
        for org_id, job_id in JOBS.items():
            cur.execute(
                "INSERT INTO analytics.export_jobs (org_id, job_id, status, granularity, window_start,"
                " window_end, requested_by, completed_at, expires_at, row_count, checksum, size_bytes,"
                " data_as_of, object_key) VALUES (%s, %s, 'succeeded', 'daily', '2026-11-01Z', '2026-11-02Z',"
                " 's', now(), now() + interval '1 day', 0, repeat('0', 64), 0, now(), 'key')",
                (org_id, job_id),
            )


def headers_of(actor: Actor, role: str) -> dict[str, str]:
    roles = None if actor.roles is None else actor.roles.replace("{role}", role)
    values = {"X-Actor-Subject": actor.subject, "X-Actor-Roles": roles, "X-Actor-Orgs": actor.orgs}
    return {name: value for name, value in values.items() if value is not None}


def roles_of(actor: Actor) -> tuple[str, ...]:
    return ROLES if "{role}" in (actor.roles or "") else ("",)


def methods_of(calls: dict[str, Call]) -> dict[str, Call]:
    """Return the methods that are answered, with HEAD as GET."""
    return {**calls, **({"HEAD": calls["GET"]} if "GET" in calls else {})}


def verdict(actor: Actor, role: str, call: Call, org_at: int | None, mode: str) -> str:
    """Look a call up in the table. org_at: 0, 1, 2 for A, B, U; None for a malformed organisation or none."""
    if call.need == NONE or mode == "off":
        return OK
    if call.need == ANY:
        return actor.any_call
    if call.need == PLATFORM:
        return actor.platform
    if org_at is None:
        return "400" if actor.any_call == OK else actor.any_call
    by_org = actor.strict if mode == "strict" else actor.compat
    if role and role != call.need and by_org[org_at] in {OK, UNBOUND}:
        return "403"
    return by_org[org_at]


def targets(template: str) -> Iterator[tuple[str, str | None]]:
    """Yield each path of a route with its organisation."""
    if "{org_id}" not in template:
        yield template, None
        return
    for org_id in (*ORGS.values(), MALFORMED):
        job_id = JOBS.get(org_id, JOBS[A])
        yield template.format(org_id=org_id, job_id=job_id, name="model"), org_id


def asking(mode: str) -> Sequence[Actor]:
    """Return who asks: everybody, but in the mode of old proxies only those of whom it decides otherwise."""
    if mode == "compat":
        return [actor for actor in ACTORS if actor.compat != actor.strict]
    return ACTORS if mode == "strict" else OFF


def matrix(mode: str) -> Iterator[tuple[str, str, str, Call, dict[str, str], int, tuple[str, str] | None]]:
    """Yield each call: its name, method, path, what it needs, headers, status, and its audit row if any."""
    for template, calls in ROUTES.items():
        for path, org_id in targets(template):
            at = next((at for at, known in enumerate(ORGS.values()) if known == org_id), None)
            for method, call in methods_of(calls).items():
                for actor in asking(mode):
                    for role in roles_of(actor):
                        name = f"{method} {path} as {actor.name} {role}".rstrip()
                        found = verdict(actor, role, call, at, mode)
                        if found == OK and org_id == MALFORMED:
                            found = "400"
                        status = call.status if found in {OK, CROSS, UNBOUND} else int(found)
                        if org_id == U and "{job_id}" in template and status < 400:
                            status = 404  # it has none, and another's is none
                        row = None
                        if found in {CROSS, UNBOUND} and status < 400:
                            row = (found, org_id or ALL_ORGS)
                        yield name, method, path, call, headers_of(actor, role), status, row


@pytest.mark.parametrize("mode", ["strict", "compat", "off"])
@pytest.mark.usefixtures("jobs")
def test_every_actor_gets_what_the_table_says_and_leaves_the_rows_it_says(
    owner: connection, environ: dict[str, str], mode: str
) -> None:
    chosen = {"ENABLE_RBAC": "false"} if mode == "off" else {"ORG_BINDING": mode}
    gateway = Gateway({**environ, **chosen})
    wrong: dict[str, Any] = {}
    names: dict[str, str] = {}
    rows: dict[str, tuple[str, str]] = {}
    for number, (name, method, path, call, headers, status, row) in enumerate(matrix(mode)):
        request_id = f"call-{number}"
        names[request_id] = name
        if row is not None:
            rows[request_id] = row
        body = {"POST": EXPORT if path.endswith("/exports") else EVENT}.get(method)
        answer = gateway.call(
            method, path, headers, query=call.query, body=body, headers={"X-Request-ID": request_id}
        )
        if answer.status_code != status:
            wrong[name] = (answer.status_code, status)
    assert len(names) > {"strict": 4000, "compat": 1000, "off": 200}[mode]
    assert wrong == {}
    with owner.cursor() as cur:
        cur.execute("SELECT request_id, decision, org_id::text FROM analytics.audit_log ORDER BY audit_id")
        written = cur.fetchall()
    assert len({request_id for request_id, *_ in written}) == len(written), "one row an answer"
    found = {request_id: tuple(row) for request_id, *row in written}
    different = {
        names[request_id]: (found.get(request_id), rows.get(request_id))
        for request_id in found.keys() | rows.keys()
        if found.get(request_id) != rows.get(request_id)
    }
    assert different == {}


def test_every_route_and_method_of_the_application_has_its_row(environ: dict[str, str]) -> None:
    app = inspect.inspect_app(Gateway(environ).app)
    served = {
        route.path: {method.method for method in route.methods if not method.internal} for route in app.routes
    }
    assert served == {template: set(methods_of(calls)) for template, calls in ROUTES.items()}
    assert (app.static_routes, app.sinks) == ([], []), "these have no row, and no resource with NEEDS"


def test_no_actor_gets_more_than_405_by_another_method(owner: connection, environ: dict[str, str]) -> None:
    gateway = Gateway(environ)
    wrong: dict[str, int] = {}
    calls = 0
    for template, known in ROUTES.items():
        for path, _ in [*targets(template)][:2]:
            for method in HTTP_METHODS - {"OPTIONS", *methods_of(known)}:
                for actor in ACTORS:
                    calls += 1
                    answer = gateway.call(method, path, headers_of(actor, ROLES[0]), body=EXPORT)
                    if answer.status_code != 405:
                        wrong[f"{method} {path} as {actor.name}"] = answer.status_code
    assert calls > 3000
    assert wrong == {}
    with owner.cursor() as cur:
        cur.execute(
            "SELECT (SELECT count(*) FROM analytics.audit_log), (SELECT count(*) FROM analytics.export_jobs)"
        )
        assert cur.fetchone() == (0, 0)


def test_all_other_methods_are_refused_to_everybody_and_options_tells_no_more_than_the_methods(
    owner: connection, environ: dict[str, str]
) -> None:
    gateway = Gateway(environ)
    routes = inspect.inspect_routes(gateway.app)
    every = {method.method for route in routes for method in route.methods} & HTTP_METHODS - {"OPTIONS"}
    assert every == HTTP_METHODS - {"OPTIONS"}
    wrong: dict[str, int] = {}
    for template, calls in ROUTES.items():
        path = template.format(org_id=B, job_id=JOBS[B], name="model")
        for actor in ({}, {"X-Actor-Subject": "s", "X-Actor-Roles": "admin"}):
            for method in every - set(methods_of(calls)):
                answer = gateway.call(method, path, actor, query="a=1")
                if answer.status_code != 405:
                    wrong[f"{method} {path}"] = answer.status_code
            options = gateway.call("OPTIONS", path, actor)
            assert (options.status_code, options.content) == (200, b"")
            assert {*options.headers["allow"].split(", ")} == {*methods_of(calls)}
    assert wrong == {}
    with owner.cursor() as cur:
        cur.execute("SELECT count(*) FROM analytics.audit_log")
        assert cur.fetchone() == (0,)


@pytest.mark.usefixtures("jobs")
def test_another_organisation_s_job_is_a_404_with_the_body_of_one_that_never_was(
    owner: connection, environ: dict[str, str]
) -> None:
    gateway = Gateway(environ)
    roles = ",".join(ROLES)
    bound = {"X-Actor-Subject": "s", "X-Actor-Roles": roles, "X-Actor-Orgs": A}
    admin = {"X-Actor-Subject": "s", "X-Actor-Roles": "admin"}
    both = {**bound, "X-Actor-Orgs": f"{A},{B}"}
    for actor in (bound, admin, both):
        for rest in ("", "/download"):
            seen = []
            for job_id in (JOBS[B], NO_JOB, "x"):
                path = f"/analytics/v1/orgs/{A}/exports/{job_id}{rest}"
                answer = gateway.call("GET", path, actor)
                assert answer.status_code == 404
                document = read(answer)
                assert document.pop("instance") == path
                seen.append(document)
            assert seen[0] == seen[1] == seen[2]
    with owner.cursor() as cur:
        cur.execute("SELECT count(*) FROM analytics.audit_log")
        assert cur.fetchone() == (0,)
