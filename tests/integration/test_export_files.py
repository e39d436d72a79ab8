"""The file of an export: the rollups of its window, exactly, and nothing else."""

from datetime import timedelta
from decimal import Decimal

import pytest

from tests.support.csv_cells import NOT_RUN, RUN
from tests.support.exports import ORG, OTHER_ORG, START, Exports, Rollup, insert_rollups

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("granularity", "table", "step"), [("hourly", "hourly_rollups", HOUR), ("daily", "daily_rollups", DAY)]
)
def test_a_file_holds_the_rollups_of_its_half_open_window_in_order(
    exports: Exports, granularity: str, table: str, step: timedelta
) -> None:
    end = START + 5 * step
    inside = [
        Rollup(
            START + at * step,
            model,
            invocations=at + 1,
            errors=at,
            cost=Decimal("1.5") * at + Decimal("1e-10"),
        )
        for at in range(5)
        for model in ("Beta", "alpha", "zeta/ü")
    ]
    outside = [Rollup(START - step), Rollup(end), Rollup(START, org_id=OTHER_ORG, model_id="canary")]
    insert_rollups(exports.owner, table, [*reversed(inside), *outside])
    row = exports.deliver(granularity=granularity, window_end=end if step == DAY else START + 5 * HOUR)
    lines = exports.lines(row)
    assert lines == [
        rollup.cells for rollup in sorted(inside, key=lambda r: (r.bucket_start, r.model_id.encode()))
    ]
    assert sum(Decimal(line[7]) for line in lines) == sum(rollup.cost for rollup in inside)
    assert row["object_key"].startswith(f"{ORG}/{row['job_id']}/attempt-1-")
    assert row["expires_at"] - row["completed_at"] == timedelta(days=90)
    assert row["created_at"] <= row["started_at"] <= row["data_as_of"] <= row["completed_at"]


def test_monthly_sums_only_the_days_inside_the_window_by_utc_month(exports: Exports) -> None:
    first = START - 10 * DAY
    days = [Rollup(first + at * DAY, model, input_tokens=10**18) for at in range(40) for model in ("a", "b")]
    insert_rollups(exports.owner, "daily_rollups", days)
    row = exports.deliver(granularity="monthly", window_start=START - 3 * DAY, window_end=START + 28 * DAY)
    february, march = 3, 28
    assert exports.lines(row) == [
        Rollup(month, model, ORG, 10 * n, n, 10**18 * n, 50 * n, Decimal("0.000015") * n).cells
        for month, n in ((START - 28 * DAY, february), (START, march))
        for model in ("a", "b")
    ]


def test_a_models_filter_takes_names_as_they_are(exports: Exports) -> None:
    strange = """it's "quoted", {with} \\ and % %(org_id)s\nand a break"""
    insert_rollups(
        exports.owner, "daily_rollups", [Rollup(START, name) for name in ("a", "b", strange, "NULL")]
    )
    row = exports.deliver(models=[strange, "b", "NULL", "not there"])
    assert [line[2] for line in exports.lines(row)] == ["NULL", "b", strange]


def test_a_name_that_a_spreadsheet_would_run_gets_an_apostrophe(exports: Exports) -> None:
    insert_rollups(exports.owner, "daily_rollups", [Rollup(START, name) for name in RUN + NOT_RUN])
    written = {line[2] for line in exports.lines(exports.deliver())}
    assert written == {f"'{name}" for name in RUN} | set(NOT_RUN)


@pytest.mark.parametrize(
    ("cost", "written"),
    [("0", "0"), ("0.0000000001", "0.0000000001"), ("1000000000000.50", "1000000000000.5"), ("100", "100"),
     ("123456789012345678901234567890.1234567891", "123456789012345678901234567890.1234567891")],
)  # fmt: skip
def test_costs_are_plain_decimals_to_the_last_digit(exports: Exports, cost: str, written: str) -> None:
    insert_rollups(exports.owner, "daily_rollups", [Rollup(START, cost=Decimal(cost))])
    assert [line[7] for line in exports.lines(exports.deliver())] == [written]


def test_gzip_keeps_the_checksum_of_the_csv(exports: Exports) -> None:
    rollups = [Rollup(START + at * HOUR, f"model-{model}") for at in range(100) for model in range(30)]
    insert_rollups(exports.owner, "hourly_rollups", rollups)
    plain = exports.deliver(granularity="hourly")
    packed = exports.deliver(granularity="hourly", compress=True)
    assert exports.lines(packed) == exports.lines(plain)
    assert packed["checksum"] == plain["checksum"]
    assert packed["size_bytes"] < plain["size_bytes"] / 5
    assert packed["object_key"].endswith(".csv.gz")


def test_a_window_without_usage_gives_a_file_with_a_header_only(exports: Exports) -> None:
    assert exports.lines(exports.deliver()) == []


def test_an_object_says_whose_it_is_and_what_it_holds(exports: Exports) -> None:
    row = exports.deliver()
    stored = exports.store.stat(row["object_key"])
    assert stored is not None
    assert stored.content_type == "text/csv; charset=utf-8"
    assert stored.metadata == {
        "org-id": ORG, "job-id": str(row["job_id"]), "granularity": "daily",
        "group-by": "model", "time-zone": "UTC",
        "window-start": "2026-03-01T00:00:00Z", "window-end": "2026-03-08T00:00:00Z",
    }  # fmt: skip
    tags = exports.store._client.get_object_tags(exports.s3["S3_BUCKET"], row["object_key"])
    assert tags is not None
    assert tags["sha256"] == row["checksum"]
