"""Puts dead letters back into the queue of events: `python -m ingestor replay-dead-letters`.

A dead letter is acknowledged after the broker confirmed its copy, so none is lost; if this command
is cut in between, a letter may be replayed twice, which dedupe makes harmless. Events that are still
invalid come back as new dead letters; the run ends with those that were there when it began.
"""

import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.amqp import Topology, blocking_channel, persistent

_PROGRESS_SECONDS = 1.0

# What dead-lettering added, by us (x-reason, x-detail) or by the broker.
_STRIPPED = ("x-reason", "x-detail", "x-death", "x-delivery-count", "x-acquired-count")
_STRIPPED_PREFIXES = ("x-first-death-", "x-last-death-", "x-opt-rabbitmq-")


@dataclass
class Summary:
    """How many letters were put back, and how many stayed, by reason."""

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

    limit: most letters to replay; reason: only letters with this reason. Others stay, and dry_run
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
            found = reason_of(properties.headers or {})
            if reason is not None and found != reason:
                summary.kept[found] += 1  # unacknowledged, it stays when the channel closes
                continue
            if not dry_run:
                _publish_back(channel, topology, method, properties, body)
                channel.basic_ack(method.delivery_tag)
            summary.replayed[found] += 1
            if time.monotonic() - shown_at > _PROGRESS_SECONDS:
                shown_at = time.monotonic()
                sys.stderr.write(f"{number} of {waiting} dead letters read\n")
    return summary


def reason_of(headers: Mapping[str, Any]) -> str:
    """Return why a letter is here: our reason, or the broker's (`delivery-limit`)."""
    if "x-reason" in headers:
        return str(headers["x-reason"])
    deaths = headers.get("x-death") or [{}]
    return str(deaths[0].get("reason", "unknown")).replace("_", "-")


def _publish_back(channel: Any, topology: Topology, method: Any, properties: Any, body: bytes) -> None:
    kept = {
        name: value
        for name, value in (properties.headers or {}).items()
        if name not in _STRIPPED and not str(name).startswith(_STRIPPED_PREFIXES)
    }
    channel.basic_publish(
        topology.exchange,
        method.routing_key,
        body,
        persistent(headers=kept, correlation_id=properties.correlation_id, timestamp=properties.timestamp),
        mandatory=True,
    )
