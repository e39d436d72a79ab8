"""The order of acknowledgement: which delivery tags may be acknowledged, and how. No I/O here.

A message may be acknowledged once all its valid events are committed and each of its dead letters is
confirmed. Batches may commit in any order. An acknowledgement of many takes all tags before it along, so it
is given only up to the first tag that still waits; what has to go past such a tag is acknowledged by itself.
"""

from collections import Counter, deque
from collections.abc import Mapping
from typing import NamedTuple


class Ack(NamedTuple):
    """An acknowledgement to send; up_to: it takes all tags before this one along."""

    delivery_tag: int
    up_to: bool


class _Entry:
    """A batch's tags; held: how many dead letters of a tag are not confirmed yet."""

    __slots__ = ("committed_at", "held", "tags")

    def __init__(self, tags: list[int]) -> None:
        self.tags = tags
        self.committed_at: float | None = None
        self.held: Counter[int] = Counter()


class AckOrder:
    """The tags of one channel, from delivery to acknowledgement. It keeps nothing but tags."""

    def __init__(self) -> None:
        self._entries: deque[_Entry] = deque()  # by delivery tags
        self._by_last_tag: dict[int, _Entry] = {}  # those that are not committed
        self._passed: Counter[int] = Counter()  # held tags that others were acknowledged past
        self._held_in: dict[int, _Entry] = {}  # where a held tag stands that nothing went past

    def add(self, tags: list[int]) -> None:
        """Take in a batch's tags, ascending and above all before them."""
        entry = _Entry(tags)
        self._entries.append(entry)
        self._by_last_tag[tags[-1]] = entry

    def commit(self, last_tag: int, dead_letters: Mapping[int, int], now: float) -> list[Ack]:
        """Note that the batch with this last tag is committed.

        dead_letters: by tag, how many dead letters of the message have to be confirmed. now: in seconds.
        """
        entry = self._by_last_tag.pop(last_tag)
        entry.committed_at = now
        entry.held.update(dead_letters)
        self._held_in.update(dict.fromkeys(dead_letters, entry))
        if self._passed:
            # An acknowledgement of many would take along what is held before it.
            return self._pass(entry)
        return self._take_head()

    def confirm(self, tag: int) -> list[Ack]:
        """Note that one dead letter of this message is confirmed."""
        if tag in self._passed:
            self._passed[tag] -= 1
            if self._passed[tag]:
                return []
            del self._passed[tag]
            return [Ack(tag, up_to=False)]
        entry = self._held_in[tag]
        entry.held[tag] -= 1
        if entry.held[tag]:
            return []
        del entry.held[tag], self._held_in[tag]
        return self._take_head()

    def give_back(self, tag: int) -> list[Ack]:
        """Forget a held message that goes back to the broker unacknowledged."""
        if self._passed.pop(tag, 0):
            return []
        entry = self._held_in.pop(tag)
        del entry.held[tag]
        entry.tags.remove(tag)
        return self._take_head()

    def pass_slow(self, before: float) -> list[Ack]:
        """Go past the held tags of all committed batches, if one was committed before this time.

        A broker that is short of memory takes no publications until its consumers made room.
        """
        committed = [entry for entry in self._entries if entry.committed_at is not None]
        if not any(entry.held and (entry.committed_at or 0) < before for entry in committed):
            return []
        return [ack for entry in committed for ack in self._pass(entry)]

    @property
    def held(self) -> int:
        """How many messages wait for dead letters to be confirmed."""
        return len(self._passed) + len(self._held_in)

    @property
    def unacknowledged(self) -> int:
        """How many messages were taken in and not acknowledged."""
        return sum(len(entry.tags) for entry in self._entries) + len(self._passed)

    @property
    def is_empty(self) -> bool:
        """Whether all that was taken in is acknowledged."""
        return not self._entries and not self._passed

    def _pass(self, entry: _Entry) -> list[Ack]:
        """Acknowledge a committed batch message by message, its held ones when they are confirmed."""
        self._entries.remove(entry)
        self._passed.update(entry.held)
        for tag in entry.held:
            del self._held_in[tag]
        return [Ack(tag, up_to=False) for tag in entry.tags if tag not in entry.held]

    def _take_head(self) -> list[Ack]:
        """Acknowledge the batches at the head of the line that wait for nothing, with one tag."""
        last_tag = None
        while self._entries and self._entries[0].committed_at is not None and not self._entries[0].held:
            last_tag = max(self._entries.popleft().tags, default=last_tag)
        return [] if last_tag is None else [Ack(last_tag, up_to=True)]
