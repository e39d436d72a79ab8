"""The gateway as a process: what gunicorn lets through, refuses, survives, counts, and how it ends."""

import json
import os
import signal
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2
import pytest
import urllib3

from deploy.local.api import wait_until
from tests.support.fleet import Fleet, Process
from tests.support.places import TestDatabase
from tests.support.raw_http import (
    ACTOR,
    ACTOR_LINES,
    ORG,
    POST,
    ROUTE,
    USAGE,
    dial,
    get,
    problem,
    raw,
    receive,
)

SILENCE_SECONDS = 15


def test_an_actor_header_that_comes_twice_is_a_400_that_names_it(gateway: Process) -> None:
    assert raw(gateway, get(USAGE))[0] == 200
    for name, value in ACTOR.items():
        for again in (name, name.lower(), name.upper()):
            document = problem(raw(gateway, get(USAGE, f"{again}: {value}\r\n")))
            assert document["status"] == 400
            assert document["errors"] == [{"field": name, "reason": "is given more than once"}]
    every = problem(raw(gateway, get(USAGE, ACTOR_LINES)))
    assert [error["field"] for error in every["errors"]] == list(ACTOR)


def test_only_the_actor_headers_themselves_name_who_asks(gateway: Process) -> None:
    for name in ACTOR:
        underscored = name.replace("-", "_")
        assert raw(gateway, get(USAGE, f"{underscored}: x\r\n"))[0] == 200
        assert raw(gateway, get(USAGE, f"X-Analytics-Repeated: {name}\r\n"))[0] == 200
        if name != "X-Actor-Orgs":
            without = ACTOR_LINES.replace(f"{name}: ", f"{underscored}: ")
            assert raw(gateway, get(USAGE, actor=without))[0] == 401


def test_what_gunicorn_refuses_itself_is_a_problem_too(gateway: Process) -> None:
    refused = {
        b"NONSENSE\r\n\r\n": 400,
        b"GET /metrics HTTP/9.9\r\nHost: x\r\n\r\n": 400,
        b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n": 400,
        get("/" + "a" * 9000): 414,
        get(USAGE, "".join(f"X-{at}: 1\r\n" for at in range(100))): 431,
        get(USAGE, f"X-Long: {'a' * 40_000}\r\n"): 431,
        get(USAGE, "bad header: 1\r\n"): 400,
        get(USAGE, "X-Nul: a\0b\r\n"): 400,
        get(USAGE, "Content-Length: x\r\n"): 400,
        get(USAGE, "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"): 400,
        get(USAGE, "Transfer-Encoding: rot13\r\n"): 400,
        get(USAGE, "Transfer-Encoding: xchunked\r\n"): 400,
        get(USAGE, "Expect: tea\r\n"): 417,
    }
    seen = {}
    for request, status in refused.items():
        document = problem(raw(gateway, request))
        assert document["detail"]
        seen[request[:60]] = (document["status"], status)
    assert {request: pair for request, pair in seen.items() if pair[0] != pair[1]} == {}


def test_bodies_in_chunks_are_read_and_bounded(gateway: Process) -> None:
    chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    document = problem(raw(gateway, chunked + b"3\r\n[{}\r\n4\r\n,{}]\r\n0\r\n\r\n"))
    assert {error["field"].partition(".")[0] for error in document["errors"]} == {"[0]", "[1]"}
    assert problem(raw(gateway, chunked + b"zz\r\n{}\r\n0\r\n\r\n"))["status"] == 400
    big = b"[" * (2 * 1024 * 1024)
    sent = chunked + f"{len(big):x}\r\n".encode() + big + b"\r\n0\r\n\r\n"
    assert problem(raw(gateway, sent))["status"] == 400


def children(gateway: Process) -> list[int]:
    path = Path(f"/proc/{gateway.popen.pid}/task/{gateway.popen.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


def counted(gateway: Process, status: int = 200) -> float:
    """Return how many usage requests the metrics say were answered with a status."""
    lines = gateway.get("/metrics").data.decode().splitlines()
    wanted = (f'route="{ROUTE}"', 'method="GET"', f'status="{status}"')
    found = [
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith("analytics_http_requests_total{") and all(label in line for label in wanted)
    ]
    return sum(found)


def test_metrics_count_answers_by_route_template_method_and_status(gateway: Process) -> None:
    for _ in range(7):
        assert raw(gateway, get(USAGE))[0] == 200
    for other in (str(uuid.uuid4()), str(uuid.uuid4())):
        assert raw(gateway, get(USAGE.replace(ORG, other), actor=""))[0] == 401
    assert raw(gateway, get("/made/up", actor=""))[0] == 404
    assert raw(gateway, get("/made/up/too", actor=""))[0] == 404
    assert counted(gateway) == 7
    assert counted(gateway, 401) == 2
    text = gateway.get("/metrics").data.decode()
    assert 'analytics_http_requests_total{method="GET",route="unmatched",status="404"} 2.0' in text
    assert "/made/up" not in text
    assert ORG not in text
    assert f'analytics_http_request_seconds_count{{method="GET",route="{ROUTE}"}} 9.0' in text
    assert "analytics_build_info{" in text


def test_a_killed_worker_is_replaced_and_no_count_falls(gateway: Process) -> None:
    wait_until(lambda: len(children(gateway)) == 2, seconds=10, what="two workers")
    for _ in range(20):
        assert raw(gateway, get(USAGE))[0] == 200
    before = children(gateway)
    assert counted(gateway) == 20
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: len(children(gateway)) == 2 and not set(before) & set(children(gateway)),
        seconds=15,
        what="two new workers",
    )
    wait_until(gateway.ready, seconds=20, what="an answer after the kill")
    assert counted(gateway) == 20
    assert raw(gateway, get(USAGE))[0] == 200
    assert counted(gateway) == 21


def test_sigterm_under_load_finishes_what_is_begun_and_ends_with_0(
    gateway: Process, database: TestDatabase
) -> None:
    answered: Counter[str] = Counter()

    def ask_on_and_on() -> None:
        pool = urllib3.PoolManager(retries=False, timeout=20)
        while True:
            try:
                answer = pool.request("GET", gateway.url + USAGE, headers=ACTOR)
            except urllib3.exceptions.HTTPError:
                return  # no longer let in
            answered[str(answer.status)] += 1

    # Requests that are being answered when the signal comes: they wait for this lock.
    holder = psycopg2.connect(database.owner_url)
    holder.cursor().execute("LOCK TABLE analytics.export_jobs")
    with ThreadPoolExecutor(12) as clients:
        slow = [clients.submit(raw, gateway, get(f"/analytics/v1/orgs/{ORG}/exports")) for _ in range(2)]
        for _ in range(8):
            clients.submit(ask_on_and_on)
        wait_until(lambda: answered["200"] > 100, seconds=20, what="load")
        began = time.monotonic()
        gateway.send(signal.SIGTERM)
        time.sleep(1)
        assert not any(request.done() for request in slow)
        holder.close()
        assert [request.result()[0] for request in slow] == [200, 200]
    assert gateway.popen.wait(timeout=20) == 0, gateway.log_tail()
    assert time.monotonic() - began < 15
    output = gateway.log.read_text()
    assert set(answered) == {"200"}
    assert output.count(f'"route": "{ROUTE}"') == answered["200"], "an answer was cut off"
    assert output.count('"route": "/analytics/v1/orgs/{org_id}/exports"') == len(slow)
    assert "Traceback" not in output


@pytest.mark.alone
def test_clients_that_connect_and_say_nothing_hold_nobody_up(gateway: Process) -> None:
    with ExitStack() as clients:
        for _ in range(200):
            clients.enter_context(dial(gateway))
        began = time.monotonic()
        assert raw(gateway, get(USAGE))[0] == 200
        assert time.monotonic() - began < 1


def test_two_hundred_clients_that_stop_in_the_middle_hold_nobody_up_for_long(gateway: Process) -> None:
    with ExitStack() as clients:
        half_body = clients.enter_context(dial(gateway))
        half_body.sendall(POST + b"Content-Length: 100\r\n\r\n{")
        for at in range(199):
            half_head = get(USAGE)[: 40 if at % 2 else -2]
            clients.enter_context(dial(gateway)).sendall(half_head)
        began = time.monotonic()
        assert raw(gateway, get(USAGE), seconds=90)[0] == 200
        assert time.monotonic() - began < SILENCE_SECONDS
        assert problem(receive(half_body))["status"] == 408
    assert gateway.popen.poll() is None
    assert '"level": "error"' not in gateway.log.read_text(), "a silent client is no error of ours"


def test_bad_settings_end_the_process_with_2_and_a_list_of_every_fault(fleet: Fleet, tmp_path: Path) -> None:
    left = tmp_path / "left"
    left.mkdir()
    gateway = fleet.start(
        "gateway",
        REDIS_URL="http://x",
        ORG_BINDING="loose",
        ENABLE_RBAC="yes",
        FRESHNESS_CACHE_TTL="5",
        S3_BUCKET=" ",
        S3_ACCESS_KEY="",
        TMPDIR=str(left),
    )
    assert gateway.popen.wait(timeout=20) == 2
    output = gateway.log.read_text()
    for name in (
        "REDIS_URL",
        "ORG_BINDING",
        "ENABLE_RBAC",
        "FRESHNESS_CACHE_TTL",
        "S3_BUCKET",
        "S3_ACCESS_KEY",
    ):
        assert output.count(name) == 1
    assert "6 setting(s)" in output
    assert list(left.iterdir()) == []


def test_the_settings_are_logged_once_without_secrets_and_nothing_is_left_behind(
    fleet: Fleet, tmp_path: Path
) -> None:
    left = tmp_path / "left"
    left.mkdir()
    [gateway] = fleet.start_ready("gateway", TMPDIR=str(left))
    assert raw(gateway, get(USAGE))[0] == 200
    assert gateway.stop() == 0
    output = gateway.log.read_text()
    assert output.count("ORG_BINDING") == 1
    for name in ("GATEWAY_DATABASE_URL", "REDIS_URL", "S3_SECRET_KEY"):
        secret = urlsplit(fleet.environ[name]).password or fleet.environ[name]
        assert secret not in output
    for line in output.splitlines():
        json.loads(line)
    assert list(left.iterdir()) == []


def test_a_metrics_folder_that_somebody_chose_is_left_as_it_was(fleet: Fleet, tmp_path: Path) -> None:
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    theirs = {"notes.txt": "keep", "counter_1.db": "another's metrics"}
    for name, text in theirs.items():
        (chosen / name).write_text(text)
    [gateway] = fleet.start_ready("gateway", PROMETHEUS_MULTIPROC_DIR=str(chosen))
    assert raw(gateway, get(USAGE))[0] == 200
    assert counted(gateway) == 1
    gateway.send(signal.SIGHUP)
    time.sleep(2)
    wait_until(gateway.ready, seconds=20, what="an answer after the reload")
    assert counted(gateway) == 1
    assert gateway.stop() == 0
    assert {path.name: path.read_text() for path in chosen.iterdir()} == theirs
