"""A TCP proxy that misbehaves on request, to stand between a process and a server in tests."""

import contextlib
import socket
import struct
import threading
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit, urlunsplit

Mode = Literal["pass", "blackhole", "refuse"]


class TcpProxy:
    """Listens on a free loopback port and passes bytes on to a server unless a test stops that.

    mode: "pass"; "blackhole" keeps connections open and swallows every byte in both directions;
    "refuse" closes new connections at once. delay_seconds holds back each piece from the server.
    lose_reply_to: once a client sends this, what the server answers is lost and the connection is reset.
    in_requests, in_replies: what is put in place of what, of the same length, where it comes in one piece.
    disturbed: how often it has done any of this, so that a test can tell that a fault met something.
    """

    def __init__(self, host: str, port: int) -> None:
        self.mode: Mode = "pass"
        self.delay_seconds = 0.0
        self.lose_reply_to: bytes | None = None
        self.in_requests: tuple[bytes, bytes] | None = None
        self.in_replies: tuple[bytes, bytes] | None = None
        self.disturbed = 0
        self._target = (host, port)
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._losing: set[tuple[socket.socket, socket.socket]] = set()
        self._halved: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._cut_after: dict[bool, int | None] = {False: None, True: None}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="tcp-proxy", daemon=True).start()

    @classmethod
    def before(cls, url: str) -> "TcpProxy":
        """Stand before the server of a URL."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        return cls(parts.hostname, parts.port)

    def url(self, original: str) -> str:
        """Return the URL with this proxy's address in place of the server's."""
        parts = urlsplit(original)
        user, at, _host = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{self.port}"))

    def cut_replies_after(self, size_bytes: int | None) -> None:
        """Reset the next connection on which the server has sent more bytes than this; None: no longer."""
        self._cut_after[True] = size_bytes

    def cut_requests_after(self, size_bytes: int | None) -> None:
        """Reset the next connection on which the client has sent more bytes than this; None: no longer."""
        self._cut_after[False] = size_bytes

    def halve_connections(self) -> None:
        """Reset every connection on the client's side alone: the server goes on believing in it."""
        with self._lock:
            pairs = list(self._pairs)
            self._halved.update(pairs)
        self.disturbed += len(pairs)
        for client, _ in pairs:
            _reset(client)

    def end_halves(self) -> None:
        """End what halve_connections() has left."""
        with self._lock:
            halved = list(self._halved)
            self._halved.clear()
            self._pairs.difference_update(halved)
        for _, server in halved:
            _reset(server)

    def reset_connections(self) -> None:
        """End every connection with a RST, as a dying host does."""
        with self._lock:
            pairs = list(self._pairs)
        self.disturbed += len(pairs)
        for pair in pairs:
            for side in pair:
                _reset(side)

    def close(self) -> None:
        """Stop listening and end every connection."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.reset_connections()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.mode == "refuse":
                self.disturbed += 1
                client.close()
                continue
            try:
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            pair = (client, server)
            with self._lock:
                self._pairs.add(pair)
            threading.Thread(target=self._pump, args=(client, server, pair, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, pair, True), daemon=True).start()

    def _pump(
        self,
        source: socket.socket,
        sink: socket.socket,
        pair: tuple[socket.socket, socket.socket],
        reply: bool,
    ) -> None:
        passed = 0
        pause = threading.Event()
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                if pair in self._halved:
                    continue
                if self.mode == "blackhole":
                    self.disturbed += 1
                    continue
                if reply and self.delay_seconds:
                    self.disturbed += 1
                    pause.wait(self.delay_seconds)
                limit = self._cut_after[reply]
                if limit is not None and passed + len(piece) > limit:
                    self._cut_after[reply] = None
                    self.disturbed += 1
                    break
                if reply and pair in self._losing:
                    self.disturbed += 1
                    break
                if not reply and self.lose_reply_to is not None and self.lose_reply_to in piece:
                    self._losing.add(pair)
                passed += len(piece)
                sink.sendall(self._changed(piece, self.in_replies if reply else self.in_requests))
        if pair in self._halved:
            return
        for side in pair:
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
            side.close()
        with self._lock:
            self._pairs.discard(pair)
            self._losing.discard(pair)

    def _changed(self, piece: bytes, change: tuple[bytes, bytes] | None) -> bytes:
        if change is None or change[0] not in piece:
            return piece
        self.disturbed += 1
        return piece.replace(*change)


def _reset(side: socket.socket) -> None:
    """End a connection with a RST, as a dying host does."""
    with contextlib.suppress(OSError):
        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        side.shutdown(socket.SHUT_RD)
    with contextlib.suppress(OSError):
        side.close()
