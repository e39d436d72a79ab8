"""Nothing that a message brings beside its body stops, restarts or slows the ingestor, or is lost with it."""

import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from deploy.local.api import wait_until
from tests.support.fleet import Process
from tests.support.ingestion import (
    NOW,
    Ingestion,
    assert_never_lost_its_broker,
    encoded_events,
    memory_kb,
    metric,
    replay,
    results,
)
from tests.support.raw_amqp import PROPERTIES, RawPublisher, Refused, field, properties, table, text


def nested(depth: int) -> bytes:
    """Write a table that holds a table that holds a table."""
    inside = b""
    for _ in range(depth):
        inside = table([(b"n", field(b"F", inside))])
    return inside


HOSTILE: dict[str, dict[str, bytes]] = {
    "a correlation id of a raw byte": {"correlation_id": b"\xff"},
    "a correlation id of 255 raw bytes": {"correlation_id": b"\xff" * 255},
    "a header of 10^17 seconds": {"headers": table([(b"t", field(b"T", struct.pack(">Q", 10**17)))])},
    "headers nested 3,000 deep": {"headers": nested(3_000)},
    "an array of 25,000 booleans as x-first-seen": {
        "headers": table([(b"x-first-seen", field(b"A", b"t\x01" * 25_000))])
    },
    "a text of 100,000 bytes as x-first-seen": {"headers": table([(b"x-first-seen", text("9" * 100_000))])},
    "raw bytes as x-first-seen": {"headers": table([(b"x-first-seen", text(b"\xff" * 30))])},
    "a header whose name is raw bytes": {"headers": table([(b"\xff" * 100, text("x"))])},
    "sixty headers of 200 characters that are three bytes each": {
        "headers": table([(b"h%d" % number, text("\u20ac" * 200)) for number in range(60)])
    },
    "forged headers of dead-lettering": {
        "headers": table(
            [
                (b"x-reason", text("forged")),
                (b"x-detail", field(b"V", b"")),
                (b"x-death", text("no array")),
                (b"x-delivery-count", field(b"l", struct.pack(">q", -1))),
                (b"x-first-death-reason", field(b"t", b"\x01")),
            ]
        )
    },
    "an x-death that is an array of numbers": {
        "headers": table([(b"x-death", field(b"A", b"I\x00\x00\x00\x01" * 3))])
    },
    "the largest timestamp": {"timestamp": b"\xff" * 8},
    "a timestamp of 1970": {"timestamp": struct.pack(">Q", 1)},
    "every property at once": {
        "content_type": b"\x00" * 255,
        "content_encoding": b"gzip",
        "headers": b"",
        "delivery_mode": b"\x02",
        "priority": b"\xff",
        "correlation_id": b"a b\x1b[2J",
        "reply_to": b"\x80" * 255,
        "expiration": b"86400000",
        "message_id": b"\xfe" * 255,
        "timestamp": struct.pack(">Q", 2**63),
        "type": b"\xfd" * 255,
        "app_id": b"\xfc" * 255,
        "cluster_id": b"\xfb" * 255,
    },
    "CC and BCC": {
        "headers": table([(b"CC", field(b"A", text("one") + text("two"))), (b"BCC", field(b"A", text("x")))])
    },
    "numbers of every type": {
        "headers": table(
            [
                (b"b", field(b"b", b"\x80")),
                (b"B", field(b"B", b"\xff")),
                (b"s", field(b"s", b"\x80\x00")),
                (b"u", field(b"u", b"\xff\xff")),
                (b"I", field(b"I", b"\xff" * 4)),
                (b"i", field(b"i", b"\xff" * 4)),
                (b"l", field(b"l", b"\x80" + b"\x00" * 7)),
                (b"f", field(b"f", struct.pack(">f", 1e30))),
                (b"d", field(b"d", struct.pack(">d", -1e300))),
                (b"D", field(b"D", b"\xff" + b"\x7f\xff\xff\xff")),
                (b"V", field(b"V", b"")),
                (b"x", field(b"x", b"\xff" * 300)),
            ]
        )
    },
}


@dataclass(frozen=True)
class Message:
    """What a producer sends; whether its event is good, or one that must become a dead letter."""

    routing_key: bytes
    encoded: bytes
    body: bytes
    good: bool


class Account:
    """One ingestor, and what must have become of all that was published to it."""

    def __init__(self, ingestion: Ingestion, process: Process) -> None:
        self.ingestion = ingestion
        self.process = process
        self.good: Counter[bytes] = Counter()
        self.bad: Counter[bytes] = Counter()

    def publish(self, messages: list[Message]) -> None:
        """Publish messages; those that the broker refuses do not count."""
        remaining = list(messages)
        while remaining:
            with RawPublisher(self.ingestion.broker.url) as publisher, suppress(Refused):
                while remaining:
                    message = remaining.pop(0)
                    exchange = self.ingestion.topology.exchange
                    publisher.publish(exchange, message.routing_key, message.encoded, message.body)
                    if message.good:
                        self.good[message.body.rstrip()] += 1  # padded or not, it is the same event
                    else:
                        self.bad[message.body] += 1

    def settle(self, seconds: float = 20) -> None:
        """Wait until all is counted as it must be, and nothing happened to the process."""
        wanted = len(self.good), self.good.total() - len(self.good), self.bad.total()
        with suppress(AssertionError):
            wait_until(lambda: results(self.process) == wanted, seconds=seconds, what="", every_seconds=0.05)
        assert results(self.process) == wanted, self.process.log_tail()
        assert self.ingestion.waiting(self.ingestion.topology.dead_letter_queue) == self.bad.total()
        assert_never_lost_its_broker(self.process)
        assert metric(self.process, "analytics_queue_oldest_age_seconds") < 401 * 86_400


@pytest.fixture
def account(ingestion: Ingestion) -> Account:
    return Account(ingestion, ingestion.start())


@pytest.fixture
def plain_account(ingestion: Ingestion) -> Account:
    return Account(ingestion, ingestion.start(RABBITMQ_READ_FRAMES="false"))


def all_cases(seed: int) -> Iterator[Message]:
    """Each kind of hostile properties on a good event and on bad ones, in one frame, in several, in none."""
    for number, (what, values) in enumerate(HOSTILE.items()):
        encoded = properties(values)
        one, two = encoded_events(2, seed=seed + number)
        name = what.encode()
        yield Message(b"usage", encoded, one, True)
        yield Message(b"\xff" * 255, encoded, two.ljust(400_000), True)
        yield Message(b"\xff" * 255, encoded, b"{bad " + name, False)
        yield Message(b"usage", encoded, (b"{long " + name).ljust(400_000), False)
        yield Message(b"", encoded, b"", False)


@pytest.mark.parametrize("way", ["account", "plain_account"], ids=["frames read", "all by pika"])
def test_messages_count_whatever_stands_beside_their_bodies(request: pytest.FixtureRequest, way: str) -> None:
    account: Account = request.getfixturevalue(way)
    messages = list(all_cases(seed=100))
    account.publish(messages)
    assert account.good.total() + account.bad.total() == len(messages), "RabbitMQ refused one"
    account.settle()
    dead_letters = account.ingestion.observer.dead_letters()
    assert Counter(each.body for each in dead_letters) == account.bad
    assert {each.reason for each in dead_letters} == {"invalid-json"}
    assert all(len(each.detail) <= 1_000 for each in dead_letters)
    assert all(
        abs(datetime.fromisoformat(each.first_seen) - NOW) < timedelta(hours=1) for each in dead_letters
    )


def test_replay_gets_past_every_dead_letter_and_moves_it(account: Account) -> None:
    ingestion = account.ingestion
    account.publish(list(all_cases(seed=200)))
    account.settle()
    with RawPublisher(ingestion.broker.url) as publisher:
        for values in HOSTILE.values():  # as another program, or the broker itself, might have put them there
            [event] = encoded_events(1, seed=300 + account.good.total())
            account.good[event] += 1
            exchange = ingestion.topology.dead_letter_exchange
            publisher.publish(exchange, b"\xff" * 255, properties(values), event)
    count = account.bad.total() + len(HOSTILE)
    shown = replay(ingestion.broker, "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert f"{count} replayed, 0 kept" in shown.stdout
    assert "forged" in shown.stdout
    assert "unknown" in shown.stdout
    done = replay(ingestion.broker)
    assert done.returncode == 0, done.stderr
    assert f"{count} replayed, 0 kept" in done.stdout
    wanted = len(account.good), 0, 2 * account.bad.total()
    wait_until(lambda: results(account.process) == wanted, seconds=20, what="all of them to come again")
    assert_never_lost_its_broker(account.process)


SHORT = st.binary(max_size=255)
TEXTS = st.one_of(SHORT, st.text(max_size=80).map(str.encode), st.binary(min_size=256, max_size=3_000))
NUMBER_BYTES = {b"t": 1, b"b": 1, b"B": 1, b"s": 2, b"u": 2, b"I": 4, b"i": 4, b"l": 8, b"f": 4, b"d": 8,
                b"D": 5, b"T": 8, b"V": 0}  # fmt: skip
NUMBERS = st.sampled_from(sorted(NUMBER_BYTES)).flatmap(
    lambda kind: st.binary(min_size=NUMBER_BYTES[kind], max_size=NUMBER_BYTES[kind]).map(
        lambda value: field(kind, value)
    )
)
LEAVES = NUMBERS | st.builds(field, st.sampled_from([b"S", b"x"]), TEXTS)
NAMES = SHORT | st.sampled_from(
    [
        b"x-first-seen",
        b"x-reason",
        b"x-detail",
        b"x-death",
        b"x-delivery-count",
        b"CC",
        b"BCC",
        b"traceparent",
    ]
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda values: field(b"A", b"".join(values))),
        st.lists(st.tuples(NAMES, inner), max_size=4).map(lambda pairs: field(b"F", table(pairs))),
    ),
    max_leaves=12,
)
# Types that the specification does not know, lengths that lie, and plain noise: some of it gets through.
NONSENSE = st.one_of(
    st.binary(max_size=200),
    st.builds(lambda kind, value: table([(b"n", kind + value)]), st.binary(min_size=1, max_size=1), SHORT),
    st.builds(lambda value: table([(b"n", b"S" + struct.pack(">I", len(value) + 9) + value)]), SHORT),
    st.integers(2, 5_000).map(nested),
)
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=30).map(table) | NONSENSE
MESSAGES = st.builds(
    lambda key, values, size, good, number: (key, values, size, good, number),
    SHORT,
    st.fixed_dictionaries(
        {},
        optional={
            name: {
                "headers": HEADERS,
                "delivery_mode": st.binary(min_size=1, max_size=1),
                "priority": st.binary(min_size=1, max_size=1),
                "timestamp": st.binary(min_size=8, max_size=8) | st.sampled_from([b"\xff" * 8, bytes(8)]),
                "user_id": st.sampled_from([b"guest", b"other"]),
                "expiration": st.sampled_from([b"600000", b"-1", b"soon", b"\xff"]),
            }.get(name, SHORT)
            for name in PROPERTIES
        },
    ),
    st.sampled_from([0, 0, 0, 131_063, 131_064, 131_065, 262_128, 700_000]),
    st.booleans(),
    st.integers(0, 2**32),
)


@settings(
    max_examples=40,
    deadline=None,
    # No shrinking: the examples share one ingestor, so that after a failure no smaller one can pass.
    phases=[Phase.generate],
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)
@given(st.lists(MESSAGES, min_size=1, max_size=12))
def test_any_properties_headers_keys_and_sizes_that_the_broker_takes_leave_the_ingestor_well(
    account: Account, drawn: list[tuple[bytes, dict[str, bytes], int, bool, int]]
) -> None:
    account.publish(
        [
            Message(
                key,
                properties(values),
                encoded_events(1, seed=number)[0].ljust(size) if good else b"{bad %d" % number + b" " * size,
                good,
            )
            for key, values, size, good, number in drawn
        ]
    )
    account.settle()
    assert memory_kb(account.process, "VmHWM") < 150_000
