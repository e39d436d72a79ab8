"""How many groups events are expected to make (rollup_worker.parts)."""

import time

import pytest

from rollup_worker.parts import Shares


def test_what_is_not_known_is_grouped() -> None:
    assert not Shares().nearly_each("client", 10)


@pytest.mark.parametrize(
    ("groups", "events", "nearly_each"),
    [
        (1_000, 1_000_000, True),  # each was a group of its own
        (990, 33_000, True),  # a share of 0.01 was lost: of 33 times the events at most 0.33
        (990, 34_000, False),
        (800, 1_000, True),
        (800, 1_700, False),
        (600, 1_000, False),
        (600, 10, False),  # fewer events make no less of a share: what is known is not extended to them
    ],
)
def test_more_events_make_fewer_groups_each(groups: int, events: int, nearly_each: bool) -> None:
    shares = Shares()
    shares.note("client", events=1_000, groups=groups)
    assert shares.nearly_each("client", events) is nearly_each
    assert not shares.nearly_each("actor", events)


def test_what_is_known_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = Shares()
    shares.note("client", events=10, groups=10)
    later = time.monotonic() + 61
    monkeypatch.setattr("time.monotonic", lambda: later)
    assert not shares.nearly_each("client", 10)
