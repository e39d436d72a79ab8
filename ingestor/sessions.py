"""Makes this process's sessions with RabbitMQ: all on one loop, with one URL, and one way to fail."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shared.rabbitmq.session import Loop, Session
from shared.rabbitmq.url import host_urls, parameters


@dataclass(frozen=True)
class Sessions:
    """What all sessions of a process share.

    name: begins the names of its connections, which RabbitMQ shows. on_failed, read_frames: see Session.
    """

    loop: Loop
    url: str
    name: str
    on_failed: Callable[[BaseException], None]
    read_frames: bool

    def make(
        self,
        purpose: str,
        pause_seconds: Callable[[], float],
        *,
        on_open: Callable[[Any], None],
        on_lost: Callable[[str], None],
    ) -> Session:
        """Return a session that is not open yet. purpose: ends its connection's name, may be empty."""
        return Session(
            self.loop,
            [
                parameters(url, connection_name=f"{self.name} {purpose}".strip())
                for url in host_urls(self.url)
            ],
            pause_seconds=pause_seconds,
            on_open=on_open,
            on_lost=on_lost,
            on_failed=self.on_failed,
            read_frames=self.read_frames,
        )
