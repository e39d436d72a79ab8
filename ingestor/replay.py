"""Puts dead letters back into the queue of events: `python -m ingestor replay-dead-letters`.

A dead letter is acknowledged after the broker confirmed its copy, so none is lost; if this command
is cut in between, a dead letter may be replayed twice, which dedupe makes harmless. Events that are still
invalid come back as new dead letters; the run ends with those that were there when it began.
"""

import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ingestor.envelope import Envelope, read_envelope
from shared.rabbitmq.connection import routing_key_bytes
from shared.rabbitmq.frames import Delivery
from shared.rabbitmq.properties import persistent
from shared.rabbitmq.session import blocking_channel
from shared.rabbitmq.topology import Topology

_PROGRESS_SECONDS = 1.0


@dataclass
class Summary:
    """How many dead letters were put back, and how many stayed, by reason."""

    replayed: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)

    def text(self) -> str:
        """Write it for a person."""
        lines = [f"{sum(self.replayed.values())} replayed, {sum(self.kept.values())} kept"]
        lines += [f"  replayed {count:>8}  {reason}" for reason, count in self.replayed.most_common()]
        lines += [f"  kept     {count:>8}  {reason}" for reason, count in self.kept.most_common()]
        return "\n".join(lines)


def replay(
    url: str,
    topology: Topology,
    *,
    limit: int | None = None,
    reason: str | None = None,
    dry_run: bool = False,
) -> Summary:
    """Move dead letters back to the exchange, oldest first.

    limit: at most so many; reason: only those with this reason. Others stay, and dry_run
    leaves all. Raises BrokerUnavailable; what was not replayed by then is still in the queue.
    """
    summary = Summary()
    with blocking_channel(url, connection_name="ingestor replay-dead-letters") as channel:
        waiting = channel.queue_declare(topology.dead_letter_queue, passive=True).method.message_count
        shown_at = time.monotonic()
        for number in range(1, waiting + 1):
            if limit is not None and sum(summary.replayed.values()) >= limit:
                break
            method, properties, body = channel.basic_get(topology.dead_letter_queue)
            if method is None:
                break
            envelope = _envelope(method, properties)
            if reason is not None and envelope.reason != reason:
                summary.kept[envelope.reason] += 1  # unacknowledged, it stays when the channel closes
                continue
            if not dry_run:
                _publish_back(channel, topology, envelope, body)
                channel.basic_ack(method.delivery_tag)
            summary.replayed[envelope.reason] += 1
            if time.monotonic() - shown_at > _PROGRESS_SECONDS:
                shown_at = time.monotonic()
                sys.stderr.write(f"{number} of {waiting} dead letters read\n")
    return summary


def _envelope(method: Any, properties: Any) -> Envelope:
    key = routing_key_bytes(method)
    return read_envelope(Delivery(method.delivery_tag, key, properties.encoded, b""))


def _publish_back(channel: Any, topology: Topology, envelope: Envelope, body: bytes) -> None:
    headers = dict(envelope.headers)
    if envelope.first_seen is not None:
        headers["x-first-seen"] = envelope.first_seen
    channel.basic_publish(
        topology.exchange,
        envelope.routing_key,
        body,
        persistent(headers=headers, texts=envelope.texts, timestamp=envelope.sent_at),
        mandatory=True,
    )
