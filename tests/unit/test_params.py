"""Query parameters: all that is wrong is named at once, and nothing is guessed at."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from urllib.parse import quote, urlencode

import pytest

from gateway.cuts.parse import CutParams, plan_of
from gateway.http.params import Params, org_id
from gateway.http.problems import Problem
from shared.cut import MAX_WINDOWS
from shared.kept import Kept

ORG = "0a11ce00-0000-4000-8000-00000000000a"
MODELS_ALONE = Kept("", False, True, None, None, None, None, None, False)
START = datetime(2026, 11, 1, tzinfo=UTC)
GRAINS = ("minute", "hour", "day")


def utc_text(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")


class Window(NamedTuple):
    """A window as it was widened."""

    start: datetime
    end: datetime
    granularity: str


def window(query: str = "", granularities: tuple[str, ...] = ("hour", "day"), **values: str) -> Window:
    params = CutParams(query or urlencode(values))
    cut = params.cut(ORG, minutes="minute" in granularities)
    plan = plan_of(cut, {"": MODELS_ALONE}, START)
    return Window(plan.start, plan.end, cut.granularity)


def faults(
    query: str = "", granularities: tuple[str, ...] = ("hour", "day"), **values: str
) -> dict[str, str]:
    """Return the reason of each field of a query that is refused."""
    with pytest.raises(Problem) as raised:
        window(query, granularities, **values)
    assert raised.value.status == 400
    found = {fault["field"]: fault["reason"] for fault in raised.value.faults}
    assert len(found) == len(raised.value.faults)
    return found


def test_every_fault_is_named_at_once() -> None:
    named = faults("start=yesterday&modelId=&color=red&granularity=week&granularity=day&size=1")
    assert set(named) == {"color", "granularity", "size", "modelId", "start", "end"}
    assert named["end"] == "is missing"
    assert named["granularity"] == "is given more than once"


def test_an_unknown_parameter_is_answered_with_those_that_there_are() -> None:
    reason = faults("strat=1")["strat"]
    assert reason.startswith("is not a parameter here; there are start, end, granularity, ")
    for name in ("timeZone", "groupBy", "modelId", "apiKeyId", "metadata.<key>"):
        assert name in reason
    with pytest.raises(Problem) as raised:
        Params("fresh=1").check()
    assert raised.value.faults == [{"field": "fresh", "reason": "is not a parameter here; there are none"}]


@pytest.mark.parametrize(
    "name", ["START", "start ", "st%C3%A4rt", "start%00", "%F0%9F%98%80", "", "a" * 5000]
)
def test_a_name_counts_letter_by_letter(name: str) -> None:
    assert len(faults(f"{name}=1&start={utc_text(START)}&end={utc_text(START)}")) == 2


@pytest.mark.parametrize(
    "value", ["%zz", "%", "%2", "a%E", "%FF", "%C3", "%ED%A0%80", "%C0%80", "\xe9", "\u212a"]
)
@pytest.mark.parametrize("name", ["modelId", "start"])
def test_bad_percent_encoding_is_a_fault_of_its_parameter(name: str, value: str) -> None:
    assert faults(f"{name}={value}")[name] == "is not UTF-8 in percent-encoding"


def test_bad_percent_encoding_in_a_name_is_a_fault_too() -> None:
    assert faults("start%zz=1")["start%zz"] == "is not UTF-8 in percent-encoding"


def test_too_many_parameters_are_refused_unread() -> None:
    assert faults("&".join("start=1" for _ in range(321))) == {"": "more than 320 parameters"}
    with pytest.raises(Problem, match="more than 100 parameters"):
        Params("&".join("start=1" for _ in range(101)))


def test_empty_pairs_mean_nothing() -> None:
    params = Params("&&modelId=a&", "modelId")
    assert params.text("modelId", max_length=1) == "a"
    params.check()


@pytest.mark.parametrize("encoded", ["meta-llama%2FLlama+3.1%268B%2B", "meta-llama/Llama%203.1%268B%2b"])
def test_a_value_is_decoded_once(encoded: str) -> None:
    params = Params(f"modelId={encoded}", "modelId")
    assert params.text("modelId", max_length=200) == "meta-llama/Llama 3.1&8B+"


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("a", True),
        ("\U0001f600" * 200, True),
        ("a" * 201, False),
        ("", False),
        ("a\0b", False),
        ("\0", False),
    ],
)
def test_a_text_has_one_to_200_characters_and_no_nul(text: str, good: bool) -> None:
    params = Params(f"modelId={quote(text)}", "modelId")
    params.text("modelId", max_length=200)
    if good:
        params.check()
    else:
        with pytest.raises(Problem):
            params.check()


def test_an_absent_text_is_none() -> None:
    assert Params("", "modelId").text("modelId", max_length=200) is None


@pytest.mark.parametrize("value", ["0", "201", "-1", "+1", "1.0", "1e2", "", " 1", "\u0661", "1" * 13, "0x1"])
def test_a_whole_number_is_plain_digits_within_its_bounds(value: str) -> None:
    params = Params(urlencode({"limit": value}), "limit")
    assert params.whole_number("limit", min_value=1, max_value=200, default=50) == 50
    with pytest.raises(Problem):
        params.check()


@pytest.mark.parametrize(
    ("query", "number"), [("", 50), ("limit=1", 1), ("limit=200", 200), ("limit=007", 7)]
)
def test_a_whole_number_that_is_good_or_absent(query: str, number: int) -> None:
    params = Params(query, "limit")
    assert params.whole_number("limit", min_value=1, max_value=200, default=50) == number
    params.check()


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-01",
        "2026-11-01T00:00:00",
        "2026-11-01 00:00:00Z",
        "2026-W44-1T00:00:00Z",
        "20261101T000000Z",
        "2026-11-01T24:00:00Z",
        "2026-11-01T00:00:60Z",
        "2026-02-30T00:00:00Z",
        "2026-11-01T00:00:00+0100",
        "2026-11-01T00:00:00.Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "10000-01-01T00:00:00Z",
        "tomorrow",
        "now",
        "1762000000",
        "",
        "\uff12026-11-01T00:00:00Z",
        "2026-11-01T00:00:00Z\0",
        "-infinity",
    ],
)
def test_a_time_without_a_zone_or_in_another_form_is_refused(text: str) -> None:
    assert faults(start=text, end=utc_text(START))["start"].startswith("must be RFC 3339 with a zone")


def test_a_plus_that_was_not_escaped_is_explained() -> None:
    end = utc_text(START + timedelta(days=1))
    assert "write + as %2B" in faults(f"start=2026-11-01T00:00:00+01:00&end={end}")["start"]
    assert window(f"start=2026-11-01T00:00:00%2B01:00&end={end}").start == START - timedelta(days=1)


@pytest.mark.parametrize("granularity", GRAINS)
def test_a_window_may_be_as_long_as_its_limit_and_not_a_microsecond_longer(granularity: str) -> None:
    longest = START + MAX_WINDOWS[granularity]
    query = f"start={utc_text(START)}&granularity={granularity}&end="
    assert window(query + utc_text(longest), GRAINS) == Window(START, longest, granularity)
    named = faults(query + utc_text(longest + timedelta(microseconds=1)), GRAINS)
    words = {"minute": "6 hours", "hour": "92 days", "day": "400 days"}[granularity]
    assert named == {"end": f"is more than {words} after start, the most for granularity {granularity}"}


def test_the_limits_are_those_of_the_contract() -> None:
    assert MAX_WINDOWS["minute"] == timedelta(hours=6)
    assert MAX_WINDOWS["hour"] == timedelta(days=92)
    assert MAX_WINDOWS["day"] == timedelta(days=400)


@pytest.mark.parametrize("granularity", ["hour", "day"])
def test_the_limit_is_for_the_window_as_asked_not_as_widened(granularity: str) -> None:
    middle = START + timedelta(minutes=30)
    found = window(
        start=utc_text(middle), end=utc_text(middle + MAX_WINDOWS[granularity]), granularity=granularity
    )
    assert found.start == START


@pytest.mark.parametrize(
    ("start", "end", "granularity", "wide_start", "wide_end"),
    [
        (
            "2026-11-01T00:00:00Z",
            "2026-11-07T23:59:59Z",
            "day",
            "2026-11-01T00:00:00Z",
            "2026-11-08T00:00:00Z",
        ),
        (
            "2026-11-01T00:00:00Z",
            "2026-11-08T00:00:00Z",
            "day",
            "2026-11-01T00:00:00Z",
            "2026-11-08T00:00:00Z",
        ),
        (
            "2026-11-01T23:30:00-01:00",
            "2026-11-02T02:00:00Z",
            "hour",
            "2026-11-02T00:00:00Z",
            "2026-11-02T02:00:00Z",
        ),
        (
            "2026-11-01T10:59:59.999999Z",
            "2026-11-01T11:00:00.000001Z",
            "hour",
            "2026-11-01T10:00:00Z",
            "2026-11-01T12:00:00Z",
        ),
        (
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:01Z",
            "day",
            "1969-12-31T00:00:00Z",
            "1970-01-02T00:00:00Z",
        ),
        (
            "0001-01-01T00:00:01Z",
            "0001-01-01T00:00:02Z",
            "day",
            "0001-01-01T00:00:00Z",
            "0001-01-02T00:00:00Z",
        ),
        (
            "9999-12-30T00:00:01Z",
            "9999-12-30T00:00:02Z",
            "day",
            "9999-12-30T00:00:00Z",
            "9999-12-31T00:00:00Z",
        ),
        (
            "2026-11-01t00:00:00z",
            "2026-11-01T01:00:00+00:00",
            "hour",
            "2026-11-01T00:00:00Z",
            "2026-11-01T01:00:00Z",
        ),
    ],
)
def test_a_window_is_widened_to_whole_buckets(
    start: str, end: str, granularity: str, wide_start: str, wide_end: str
) -> None:
    found = window(start=start, end=end, granularity=granularity)
    assert (utc_text(found.start), utc_text(found.end)) == (wide_start, wide_end)


@pytest.mark.parametrize("granularity", ["hour", "day"])
def test_a_last_bucket_beyond_the_calendar_is_refused(granularity: str) -> None:
    named = faults(start="9999-12-31T23:00:00Z", end="9999-12-31T23:00:01Z", granularity=granularity)
    assert named == {"end": "is too late"}


@pytest.mark.parametrize("seconds", [0, 1])
def test_an_empty_or_reversed_window_is_refused(seconds: int) -> None:
    end = utc_text(START - timedelta(seconds=seconds))
    assert faults(start=utc_text(START), end=end) == {"end": "must be later than start"}


def test_granularity_is_day_unless_given_and_one_of_those_of_the_resource() -> None:
    query = f"start={utc_text(START)}&end={utc_text(START + timedelta(hours=1))}"
    assert window(query).granularity == "day"
    assert window(f"{query}&granularity=minute", GRAINS).granularity == "minute"
    for bad in ("minute", "Day", "", "days"):
        assert faults(f"{query}&granularity={bad}") == {
            "granularity": "must be one of hour, day, week, month, total"
        }


def test_an_organisation_is_read_in_lower_case() -> None:
    assert org_id("0A11CE00-0000-4000-8000-00000000000A") == "0a11ce00-0000-4000-8000-00000000000a"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "00000000-0000-0000-0000-000000000000",
        "{0a11ce00-0000-4000-8000-00000000000a}",
        "urn:uuid:0a11ce00-0000-4000-8000-00000000000a",
        "0a11ce0000004000800000000000000a",
        "0a11ce00-0000-4000-8000-00000000000\uff21",
        "0a11ce00-0000-4000-8000-00000000000a\n",
        "0a11ce00-0000-4000-8000-00000000000\ud800",
        "0a11ce00_0000_4000_8000_00000000000a",
    ],
)
def test_an_organisation_in_any_other_form_is_a_fault_of_the_path(text: str) -> None:
    with pytest.raises(Problem) as raised:
        org_id(text)
    assert [fault["field"] for fault in raised.value.faults] == ["orgId"]
