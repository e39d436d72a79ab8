"""The front door of the local stack: says who is asking, as the proxy before a gateway does in production.

python -m deploy.local.front_door --port PORT --gateway http://127.0.0.1:8084

It listens on loopback alone. Whoever opens it chooses who to be: /as/NAME/... asks as that actor, and what
has no such prefix asks as the administrator. The actor's headers that come from outside are dropped, and the
switch between the actors stands above the console. It is for this machine, and never part of a gateway.
"""

import argparse
import html
import ipaddress
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from deploy.local.traffic import org

CONSOLE = "/analytics/console/"
_ACTOR_HEADERS = {"x-actor-subject", "x-actor-roles", "x-actor-orgs", "x-actor-time", "x-actor-signature"}
_HOP_BY_HOP = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer",
    "transfer-encoding", "upgrade",
}  # fmt: skip
_MAX_BODY_BYTES = 2_000_000
_PIECE_BYTES = 65_536
_SECONDS = 120.0


@dataclass(frozen=True)
class Actor:
    """Somebody to be. org: where the console opens; None for all organisations."""

    name: str
    title: str
    headers: Mapping[str, str]
    org: str | None


_EXPORTS = "analytics:exports:create,analytics:exports:read,analytics:exports:download"
ACTORS = {
    actor.name: actor
    for actor in (
        Actor(
            "administrator",
            "administrator",
            {"X-Actor-Subject": "administrator", "X-Actor-Roles": "admin"},
            None,
        ),
        Actor(
            "finance",
            "tenant A's finance",
            {
                "X-Actor-Subject": "finance@tenant-a",
                "X-Actor-Roles": f"analytics:usage:read,{_EXPORTS}",
                "X-Actor-Orgs": org(0),
            },
            org(0),
        ),
        Actor(
            "on-call",
            "tenant B's on-call",
            {
                "X-Actor-Subject": "on-call@tenant-b",
                "X-Actor-Roles": "analytics:usage:read,analytics:reliability:read,analytics:incidents:export",
                "X-Actor-Orgs": org(1),
            },
            org(1),
        ),
        Actor("nobody", "nobody", {}, org(0)),
    )
}
_FIRST = "administrator"

_STYLE = b"""
.front-door { display: flex; flex-wrap: wrap; gap: 4px 14px; padding: 6px 16px; margin: 0;
  background: #33312b; color: #fff; font: 13px/1.5 system-ui, 'DejaVu Sans', sans-serif; }
.front-door a { color: #ffe08a; }
.front-door strong { color: #fff; }
"""


def is_loopback(address: str) -> bool:
    """Return whether an address is one that no other machine can reach."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def split_actor(target: str) -> tuple[Actor, str] | None:
    """Return who asks and the target without it; None where there is no such actor."""
    if not target.startswith("/as/"):
        return ACTORS[_FIRST], target
    name, _, rest = target.removeprefix("/as/").partition("/")
    actor = ACTORS.get(name)
    return None if actor is None else (actor, f"/{rest}")


def switch(now: Actor) -> bytes:
    """Return the markup of the switch: a link for each actor, to where it has something to see."""
    parts = []
    for actor in ACTORS.values():
        title = html.escape(actor.title)
        where = "" if actor.org is None else f"#/usage?org={actor.org}"
        page = f'<a href="/as/{actor.name}{CONSOLE}{where}">{title}</a>'
        parts.append(f'<strong aria-current="true">{title}</strong>' if actor is now else page)
    return (
        '<aside class="front-door" aria-label="Who you are on this local stack">'
        f"<span>Local stack. You are:</span> {' '.join(parts)}</aside>"
    ).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "front-door"
    timeout = _SECONDS
    server: "FrontDoor"

    def do_GET(self) -> None:
        """Pass a request on."""
        self._answer()

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET  # noqa: N815  the names of http.server

    def _answer(self) -> None:
        found = split_actor(self.path)
        if self.headers.get("Host") not in self.server.hosts:
            # Another site's name that resolves to this machine (DNS rebinding).
            self._refuse(HTTPStatus.MISDIRECTED_REQUEST, "The front door answers on loopback alone.")
        elif self._is_foreign():
            self._refuse(HTTPStatus.FORBIDDEN, "Another site may not ask here.")
        elif self.path == "/front-door.css":
            self._send(HTTPStatus.OK, "text/css", _STYLE)
        elif self.path == "/":
            self._refuse(HTTPStatus.FOUND, "The console is there.", Location=CONSOLE)
        elif found is None:
            self._refuse(HTTPStatus.NOT_FOUND, f"There are {', '.join(ACTORS)}.")
        else:
            self._pass_on(*found)

    def _is_foreign(self) -> bool:
        site, mode = self.headers.get("Sec-Fetch-Site"), self.headers.get("Sec-Fetch-Mode")
        return site in {"cross-site", "same-site"} and (mode != "navigate" or self.command != "GET")

    def _pass_on(self, actor: Actor, target: str) -> None:
        is_page = urlsplit(target).path == CONSOLE
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit() or int(length) > _MAX_BODY_BYTES or "Transfer-Encoding" in self.headers:
            self._refuse(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"A body has a length, of at most {_MAX_BODY_BYTES} bytes.",
            )
            return
        body = self.rfile.read(int(length)) if int(length) else None
        left_out = _ACTOR_HEADERS | _HOP_BY_HOP | ({"accept-encoding", "if-none-match"} if is_page else set())
        headers = {name: value for name, value in self.headers.items() if name.lower() not in left_out}
        connection = HTTPConnection(*self.server.gateway, timeout=_SECONDS)
        try:
            connection.request(self.command, target, body, headers | dict(actor.headers))
            answer = connection.getresponse()
            if is_page and answer.status == HTTPStatus.OK:
                self._send_page(answer, actor)
            else:
                self._stream(answer)
        except (OSError, HTTPException) as error:
            self.log_error("the gateway does not answer: %s", error)
            self.close_connection = True
            if not self._began:
                self._refuse(HTTPStatus.BAD_GATEWAY, "The gateway does not answer.")
        finally:
            connection.close()

    _began = False

    def _head(self, answer: HTTPResponse, left_out: set[str]) -> None:
        self._began = True
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP_BY_HOP | left_out:
                self.send_header(name, value)

    def _send_page(self, answer: HTTPResponse, actor: Actor) -> None:
        """Send the console's page with the switch above it."""
        page = answer.read()
        if self.command == "GET":
            page = page.replace(b"</head>", b'<link rel="stylesheet" href="/front-door.css"></head>', 1)
            page = page.replace(b"<body>", b"<body>" + switch(actor), 1)
        self._head(answer, {"content-length", "etag"})
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def _stream(self, answer: HTTPResponse) -> None:
        """Send the answer as it comes."""
        is_chunked = answer.getheader("Content-Length") is None and self.command != "HEAD"
        is_chunked = is_chunked and answer.status not in {204, 304}
        self._head(answer, set())
        if is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while piece := answer.read1(_PIECE_BYTES):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
        if is_chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _refuse(self, status: HTTPStatus, text: str, **headers: str) -> None:
        if status not in {HTTPStatus.FOUND, HTTPStatus.NOT_FOUND}:
            self.close_connection = True
        self._send(status, "text/plain; charset=utf-8", f"{text}\n".encode(), **headers)

    def _send(self, status: HTTPStatus, content_type: str, body: bytes, **headers: str) -> None:
        self._began = True
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_one_request(self) -> None:
        """Serve the next request of a connection."""
        self._began = False
        super().handle_one_request()


class FrontDoor(ThreadingHTTPServer):
    """The server. Raises ValueError for an address that is not loopback."""

    daemon_threads = True

    def __init__(self, host: str, port: int, gateway: str) -> None:
        if not is_loopback(host):
            raise ValueError(
                f"{host!r} is no loopback address: anybody who can reach the front door is administrator"
            )
        parts = urlsplit(gateway)
        self.gateway = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.hosts = {f"{name}:{port}" for name in (host, "localhost", "127.0.0.1")}
        super().__init__((host, port), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone away is no error."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def main(arguments: Sequence[str]) -> int:
    """Serve until a signal; 2 for an address that is not loopback."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.front_door")
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--gateway", required=True, help="the gateway's URL")
    asked = parser.parse_args(arguments)
    try:
        server = FrontDoor(asked.host, asked.port, asked.gateway)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    with server:
        server.serve_forever()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
