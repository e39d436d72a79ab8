"""The optional fields that say where a call's tokens, time and cost went: which are accepted, and as what."""

import json
from typing import Any

import pytest

from shared.usage_event.decode import decode_event
from tests.unit.test_events import GOOD, NOW, event, faults_of, stored

TEXTS = {"provider": 100, "operation": 64, "apiKeyId": 200}
PARTS = {
    "cachedInputTokens": "inputTokens",
    "cacheWriteInputTokens": "inputTokens",
    "reasoningTokens": "outputTokens",
    "timeToFirstTokenMs": "latencyMs",
}
COLUMNS = {
    "provider": "provider",
    "operation": "operation",
    "apiKeyId": "api_key_id",
    "cachedInputTokens": "cached_input_tokens",
    "cacheWriteInputTokens": "cache_write_input_tokens",
    "reasoningTokens": "reasoning_tokens",
    "timeToFirstTokenMs": "time_to_first_token_ms",
}
ALL: dict[str, Any] = {
    "provider": "anthropic",
    "operation": "chat",
    "apiKeyId": "key_7",
    "cachedInputTokens": 5,
    "cacheWriteInputTokens": 7,
    "reasoningTokens": 34,
    "timeToFirstTokenMs": 250,
}


def test_an_event_that_has_them_all_is_stored_with_them() -> None:
    fields = stored(event(**ALL))
    assert {name: fields[column] for name, column in COLUMNS.items()} == {
        name: str(value) for name, value in ALL.items()
    }


@pytest.mark.parametrize("name", COLUMNS)
def test_absent_and_null_mean_the_same(name: str) -> None:
    absent, null = event(), event(**{name: None})
    assert stored(absent)[COLUMNS[name]] is None
    assert decode_event(absent, NOW) == decode_event(null, NOW)


@pytest.mark.parametrize("name", COLUMNS)
def test_the_snake_case_spelling_means_the_same_and_two_values_are_ambiguous(name: str) -> None:
    snake = event(**{COLUMNS[name]: ALL[name]})
    assert decode_event(snake, NOW) == decode_event(event(**{name: ALL[name]}), NOW)
    other = "other" if isinstance(ALL[name], str) else 1
    if COLUMNS[name] != name:
        assert faults_of(event(**{name: ALL[name], COLUMNS[name]: other})) == [(name, "ambiguous-field")]


def test_the_digest_of_an_event_without_them_is_what_it_was_before_they_existed() -> None:
    """The dedupe window reaches across an upgrade: an old event sent again is no conflict of content."""
    whole = event(actorId="user-1", clientId="c", errorCode="E", metadata={"b": "x\ty", "a": "ü\\"})
    assert decode_event(event(), NOW).content_digest == DIGEST_BEFORE["plain"]
    assert decode_event(whole, NOW).content_digest == DIGEST_BEFORE["whole"]


DIGEST_BEFORE = {"plain": 7637379129459009477, "whole": 176841286297090630}
"""What commit 2b2f496 made of these events."""


@pytest.mark.parametrize("name", COLUMNS)
def test_another_value_of_any_of_them_is_another_content(name: str) -> None:
    value = "other" if isinstance(ALL[name], str) else ALL[name] - 1
    digests = {
        decode_event(event(**changes), NOW).content_digest for changes in ({}, ALL, ALL | {name: value})
    }
    assert len(digests) == 3


def test_values_that_change_places_are_another_content() -> None:
    one = decode_event(event(cachedInputTokens=5), NOW)
    other = decode_event(event(cacheWriteInputTokens=5), NOW)
    assert one.content_digest != other.content_digest


@pytest.mark.parametrize(("name", "longest"), TEXTS.items())
def test_texts_have_1_to_their_most_characters(name: str, longest: int) -> None:
    assert stored(event(**{name: "😀" * longest}))[COLUMNS[name]] == "😀" * longest
    assert stored(event(**{name: 'a\tb\\N\n"'}))[COLUMNS[name]] == 'a\tb\\N\n"'
    for bad in ("", "x" * (longest + 1), 1, True, ["x"], "a\0b", "\ud800"):
        raw = json.dumps(GOOD | {name: bad}).encode()
        assert faults_of(raw) == [(name, "invalid-field" if bad != "\ud800" else "invalid-json")]


@pytest.mark.parametrize(("name", "whole"), PARTS.items())
def test_a_part_is_an_integer_and_at_most_its_whole(name: str, whole: str) -> None:
    assert stored(event(**{name: 0}))[COLUMNS[name]] == "0"
    assert stored(event(**{name: GOOD[whole]}))[COLUMNS[name]] == str(GOOD[whole])
    for bad in (GOOD[whole] + 1, -1, 1.0, "1", True, 2**63, 2**64):
        assert faults_of(event(**{name: bad})) == [(name, "invalid-field")], bad


def test_both_cache_parts_together_are_at_most_the_input() -> None:
    assert stored(event(cachedInputTokens=5, cacheWriteInputTokens=7))["cached_input_tokens"] == "5"
    assert faults_of(event(cachedInputTokens=6, cacheWriteInputTokens=7)) == [
        ("cachedInputTokens", "invalid-field")
    ]


def test_the_fault_names_the_part_and_its_whole() -> None:
    with pytest.raises(Exception, match="reasoningTokens is 35, more than outputTokens, 34"):
        decode_event(event(reasoningTokens=35), NOW)


def test_a_part_whose_whole_is_at_fault_is_not_blamed_for_it() -> None:
    assert faults_of(event(inputTokens=-1, cachedInputTokens=5)) == [("inputTokens", "invalid-field")]


@pytest.mark.parametrize(("part", "whole"), PARTS.items())
def test_a_part_is_not_held_against_a_whole_that_is_given_twice_with_different_values(
    part: str, whole: str
) -> None:
    raw = event(**{part: 1, whole: 1})[:-1] + f', "{whole}": 0}}'.encode()
    assert faults_of(raw) == [(whole, "ambiguous-field")]
