"""The peer of the drain: receives messages with pika and acknowledges them, and does nothing else.

python -m tests.benchmarks.bare_consumer QUEUE COUNT ACK_EVERY   RABBITMQ_URL names the broker. Prints the
seconds from the first message to the acknowledgement of the last. ACK_EVERY 1 acknowledges each message, as
consumers do unless they have a reason to keep count; 1,000 is about as fast as pika gets.
"""

import os
import sys
import time
from typing import Any

import pika

# Of 200 to 10,000 the fastest: always messages on their way.
PREFETCH = 4_000


class BareConsumer:
    """Counts messages on pika's fastest adapter until there were enough."""

    def __init__(self, url: str, queue: str, count: int, ack_every: int) -> None:
        self._queue = queue
        self._count = count
        self._ack_every = ack_every
        self._received = 0
        self._began = 0.0
        self.seconds = 0.0
        self._connection = pika.SelectConnection(pika.URLParameters(url), on_open_callback=self._opened)

    def run(self) -> float:
        """Consume and return the seconds it took."""
        self._connection.ioloop.start()
        return self.seconds

    def _opened(self, connection: Any) -> None:
        connection.channel(on_open_callback=self._consume)

    def _consume(self, channel: Any) -> None:
        channel.add_on_close_callback(lambda *_: self._connection.ioloop.stop())
        channel.basic_qos(prefetch_count=PREFETCH)
        channel.basic_consume(self._queue, self._delivered)

    def _delivered(self, channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
        self._received += 1
        if self._received == 1:
            self._began = time.perf_counter()
        if self._received % self._ack_every == 0 or self._received == self._count:
            channel.basic_ack(method.delivery_tag, multiple=True)
        if self._received == self._count:
            # The answer to the next call shows that the broker took the ack before it.
            channel.queue_declare(self._queue, passive=True, callback=lambda _: self._done(channel))

    def _done(self, channel: Any) -> None:
        self.seconds = time.perf_counter() - self._began
        channel.close()


if __name__ == "__main__":
    consumer = BareConsumer(os.environ["RABBITMQ_URL"], sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    sys.stdout.write(f"{consumer.run()}\n")
