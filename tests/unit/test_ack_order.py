"""The order of acknowledgement: nothing is acknowledged too early, twice, or never, and nothing piles up."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ingestor.ack_order import Ack, AckOrder


class Channel:
    """The broker's side of a channel: refuses a tag that is not there to be acknowledged."""

    def __init__(self) -> None:
        self.unacknowledged: list[int] = []
        self.acknowledged: set[int] = set()

    def acknowledge(self, acks: list[Ack]) -> None:
        for tag, up_to in acks:
            assert tag in self.unacknowledged, "RabbitMQ would close the channel"
            taken = [other for other in self.unacknowledged if other == tag or (up_to and other < tag)]
            self.acknowledged.update(taken)
            self.unacknowledged = [other for other in self.unacknowledged if other not in taken]


class AckOrderMachine(RuleBasedStateMachine):
    """Batches that commit and dead letters that are confirmed in any order, with tags left out between."""

    def __init__(self) -> None:
        super().__init__()
        self.order = AckOrder()
        self.channel = Channel()
        self.last_tag = 0
        self.now = 0.0
        self.writing: list[list[int]] = []
        self.uncommitted: set[int] = set()
        self.held: Counter[int] = Counter()
        self.given_back: set[int] = set()
        self.refused: set[int] = set()

    @rule(gaps=st.lists(st.integers(1, 3), min_size=1, max_size=6))
    def deliver(self, gaps: list[int]) -> None:
        tags = []
        for gap in gaps:
            self.refused.update(range(self.last_tag + 1, self.last_tag + gap))  # went back at once
            self.last_tag += gap
            tags.append(self.last_tag)
        self.channel.unacknowledged += tags
        self.uncommitted.update(tags)
        self.writing.append(tags)
        self.order.add(tags)

    @precondition(lambda self: self.writing)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        tags = self.writing.pop(data.draw(st.integers(0, len(self.writing) - 1)))
        held = data.draw(st.dictionaries(st.sampled_from(tags), st.integers(1, 3), max_size=3))
        self.uncommitted.difference_update(tags)
        self.held.update(held)
        self.channel.acknowledge(self.order.commit(tags[-1], held, self.now))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def confirm(self, data: st.DataObject) -> None:
        tag = data.draw(st.sampled_from(sorted(self.held)))
        self.held[tag] -= 1
        if not self.held[tag]:
            del self.held[tag]
        self.channel.acknowledge(self.order.confirm(tag))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        tag = data.draw(st.sampled_from(sorted(self.held)))
        del self.held[tag]
        self.given_back.add(tag)
        self.channel.unacknowledged.remove(tag)
        self.channel.acknowledge(self.order.give_back(tag))

    @rule(seconds=st.sampled_from([0.5, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.channel.acknowledge(self.order.pass_slow(self.now - 2.0))

    @invariant()
    def nothing_is_acknowledged_too_early(self) -> None:
        assert not self.channel.acknowledged & (self.uncommitted | set(self.held) | self.given_back)

    @invariant()
    def what_is_not_acknowledged_is_known(self) -> None:
        assert self.order.unacknowledged == len(self.channel.unacknowledged)
        assert self.order.held == len(self.held)
        assert self.order.is_empty == (not self.channel.unacknowledged)

    @invariant()
    def what_waits_for_nothing_is_acknowledged(self) -> None:
        """All before the first tag that waits, and in time all that is committed."""
        waiting = self.uncommitted | set(self.held)
        first = min(waiting, default=self.last_tag + 1)
        whole_batches = [tags for tags in self.writing if tags[0] < first]
        if not whole_batches and not self.held:
            assert all(tag >= first for tag in self.channel.unacknowledged)

    def teardown(self) -> None:
        while self.writing:
            tags = self.writing.pop()
            self.uncommitted.difference_update(tags)
            self.channel.acknowledge(self.order.commit(tags[-1], {}, self.now))
        self.channel.acknowledge(self.order.pass_slow(self.now + 1))
        assert self.channel.unacknowledged == sorted(self.held), "only what is held may wait past the limit"
        for tag in sorted(self.held, reverse=True):
            for _ in range(self.held[tag]):
                self.channel.acknowledge(self.order.confirm(tag))
        assert self.channel.unacknowledged == []
        assert self.order.is_empty


TestAckOrder = AckOrderMachine.TestCase
TestAckOrder.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


def test_batches_that_commit_in_another_order_are_acknowledged_with_one_tag() -> None:
    order = AckOrder()
    for tags in ([1, 2, 3], [4, 5], [7, 8]):
        order.add(tags)
    assert order.commit(5, {}, 0) == []
    assert order.commit(3, {}, 0) == [Ack(5, up_to=True)]
    assert order.commit(8, {8: 2}, 0) == []
    assert order.confirm(8) == []
    assert order.confirm(8) == [Ack(8, up_to=True)]


def test_past_a_held_message_the_others_are_acknowledged_one_by_one() -> None:
    order = AckOrder()
    order.add([1, 2, 3])
    order.add([4, 5])
    assert order.commit(3, {2: 1}, now=10) == []
    assert order.pass_slow(before=10) == []
    assert order.pass_slow(before=10.1) == [Ack(1, up_to=False), Ack(3, up_to=False)]
    assert order.commit(5, {}, now=11) == [Ack(4, up_to=False), Ack(5, up_to=False)]
    assert order.unacknowledged == 1
    assert order.confirm(2) == [Ack(2, up_to=False)]
    order.add([6])
    assert order.commit(6, {}, now=12) == [Ack(6, up_to=True)]


@pytest.mark.parametrize("batches", [1_000])
def test_a_message_that_is_held_for_long_keeps_no_more_than_its_tag(batches: int) -> None:
    order = AckOrder()
    order.add([1])
    order.commit(1, {1: 1}, now=0)
    order.pass_slow(before=1)
    for number in range(batches):
        order.add([number + 2])
        assert order.commit(number + 2, {}, now=2) == [Ack(number + 2, up_to=False)]
    assert order.unacknowledged == 1
    assert len(order._entries) + len(order._by_last_tag) + len(order._held_in) == 0
