"""Requests as few clients send them: in pieces, one behind another, malformed, with headers that lie."""

import socket

from tests.support.fleet import Process
from tests.support.raw_http import EVENT, HEALTH, POST, USAGE, dial, get, problem, raw, receive, validate


def test_a_client_that_waits_for_continue_gets_it_once_and_its_answer(gateway: Process) -> None:
    with dial(gateway) as client:
        client.sendall(POST + f"Expect: 100-continue\r\nContent-Length: {len(EVENT)}\r\n\r\n".encode())
        stream = client.makefile("rb")
        assert stream.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert stream.readline() == b"\r\n"
        client.sendall(EVENT)
        assert stream.readline().startswith(b"HTTP/1.1 204 ")


def test_requests_one_behind_another_are_answered_in_their_order(gateway: Process) -> None:
    kept = validate().replace(b"Connection: close\r\n", b"")
    chunked = POST.replace(b"Connection: close\r\n", b"") + b"Transfer-Encoding: chunked\r\n\r\n"
    chunked += f"{len(EVENT):x};a=b\r\n".encode() + EVENT + b"\r\n0\r\nX-Trailer: 1\r\n\r\n"
    with dial(gateway) as client:
        client.sendall((kept + chunked) * 3 + HEALTH)
        stream = client.makefile("rb").read()
    assert stream.count(b"HTTP/1.1 204 ") == 6
    assert stream.index(b"HTTP/1.1 200 OK") > stream.rindex(b"HTTP/1.1 204 ")


def test_a_request_in_single_bytes_is_one_request(gateway: Process) -> None:
    chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    chunked += f"{len(EVENT):x}\r\n".encode() + EVENT + b"\r\n0\r\n\r\n"
    for request in (get(USAGE), validate(), chunked, b"\r\n" + get(USAGE)):
        with dial(gateway) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in request:
                client.sendall(bytes([byte]))
            assert receive(client)[0] in {200, 204}


REQUESTS = [
    (get(USAGE, "SCRIPT_NAME: /analytics\r\n"), 200),
    (get(USAGE, "Script-Name: /analytics\r\nPATH_INFO: /x\r\n"), 200),
    (get(USAGE, "X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off\r\nX-Forwarded-For: \xff\r\n"), 200),
    (get(USAGE, "X-Request-ID: a\r\nX-Request-ID: b\r\n"), 200),
    (get(USAGE, "Range: bytes=0-1\r\nIf-Modified-Since: x\r\nTE: trailers\r\n"), 200),
    (get(USAGE, "Connection: upgrade\r\nUpgrade: websocket\r\n"), 200),
    (get(USAGE, "Content-Length: 0\r\n"), 200),
    (get(USAGE, "Accept: application/openmetrics-text;version=x\r\n"), 200),
    (get("/metrics", "Accept: application/openmetrics-text;version=x\r\n"), 200),
    (get(f"http://elsewhere{USAGE}"), 200),
    (get(USAGE).replace(b"HTTP/1.1", b"HTTP/1.0"), 200),
    (get(USAGE).replace(b"GET", b"WEBSOCKET"), 400),
    (get("/metrics").replace(b"GET", b"WEBSOCKET"), 400),
    (get(USAGE).replace(b"GET", b"FOO"), 400),
    (get(USAGE).replace(b"GET", b"CONNECT"), 405),
    (get("/%00"), 404),
    (get("/analytics/v1/orgs/%ED%A0%80/usage"), 400),
    (get("/analytics/v1/orgs/%/usage?%"), 400),
    (get(USAGE + "&modelId=%ED%A0%80"), 400),
    (get(USAGE + "&%00=%00"), 400),
    (get(USAGE, "Host: y\r\n"), 400),
    (get(USAGE, "Content-Length: -1\r\n"), 400),
    (get(USAGE, "Content-Length: +5\r\n"), 400),
    (get(USAGE, "Content-Length: 1_0\r\n"), 400),
    (POST + b"Content-Length: 9" + b"9" * 30 + b"\r\n\r\n" + b"[" * 1_100_000, 400),
    (get(USAGE, "Content-Length: 1\r\nContent-Length: 1\r\n"), 400),
    (get(USAGE, "Content-Length : 1\r\n"), 400),
    (get(USAGE, "Transfer-Encoding: chunked, gzip\r\n"), 400),
    (get(USAGE, "Expect: tea\r\n"), 417),
    (b"GET /metrics\r\n\r\n", 400),
    (b"GET /metrics HTTP/1.1\nHost: x\n\n", 400),
    (b"\r\n\r\n\r\n\r\n", 400),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    (get(USAGE, "X-Many: y\r\n" * 20_000), 431),
    (POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1;" + b"x" * 9000 + b"\r\n", 400),
    (POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 1_000_000, 413),
    (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X-Trailer: 1\r\n" * 1000, 431),
    (POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nxx\r\n0\r\n\r\n", 400),
    (POST + b"Content-Length: 5000000000\r\n\r\n" + b"[" * 1_100_000, 400),
    (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
]


def test_whatever_stands_beside_the_path_is_no_failure_of_ours(gateway: Process) -> None:
    wrong = {}
    for request, status in REQUESTS:
        answer = raw(gateway, request)
        if answer[0] != status:
            wrong[request[:60] + request[-40:]] = answer
            continue
        if status >= 400:
            problem(answer)
        assert answer[1]["x-request-id"]
        assert raw(gateway, HEALTH)[0] == 200
    assert wrong == {}
    assert '"level": "error"' not in gateway.log.read_text()


def test_every_refusal_is_counted(gateway: Process) -> None:
    refusals = {
        b"NONSENSE\r\n\r\n": 400,
        get("/" + "a" * 9000): 414,
        get(USAGE, "Expect: tea\r\n"): 417,
        get(USAGE, f"X-Long: {'a' * 40_000}\r\n"): 431,
        get(USAGE, "Transfer-Encoding: xchunked\r\n"): 400,
        get(USAGE).replace(b"GET", b"WEBSOCKET"): 400,
    }
    ids = set()
    for request, status in refusals.items():
        answer = raw(gateway, request)
        assert problem(answer)["status"] == status
        ids.add(answer[1]["x-request-id"])
    assert len(ids) == len(refusals)
    counts = {
        line.partition('status="')[2][:3]: float(line.rpartition(" ")[2])
        for line in gateway.get("/metrics").data.decode().splitlines()
        if line.startswith("analytics_http_requests_total{") and "unmatched" in line
    }
    assert counts == {"400": 3, "414": 1, "417": 1, "431": 1}
    assert all(request_id in gateway.log.read_text() for request_id in ids)
