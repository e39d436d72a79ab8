"""Words that code, SQL and the API's description share are the same in all three."""

import re
from typing import Any

import pytest

from gateway.cuts.reading import MAX_POINTS
from gateway.incidents.export import DEFAULT_ROWS, MAX_ROWS
from gateway.resources.export_request import COMPRESSIONS
from gateway.resources.freshness import MAX_ENTRIES
from shared.cut import MAX_WINDOWS, ORDERS
from shared.export_job import EXPORT_GRANULARITIES, EXPORT_STATUSES
from shared.statements import SQL_FOLDER
from shared.usage_event.schema import STATUSES
from tests.support.gateway_app import DOCUMENT

SCHEMAS = DOCUMENT["components"]["schemas"]
MIGRATIONS = "".join(path.read_text(encoding="utf-8") for path in (SQL_FOLDER / "migrations").glob("*.sql"))


def parameter(path: str, name: str) -> Any:
    """Return the schema of a query parameter of a GET."""
    for item in DOCUMENT["paths"][f"/analytics/v1/orgs/{{orgId}}/{path}"]["get"]["parameters"]:
        if "$ref" in item:
            item = DOCUMENT["components"]["parameters"][item["$ref"].rpartition("/")[2]]  # noqa: PLW2901
        if item["name"] == name:
            return item["schema"]
    raise AssertionError(f"{path} has no parameter {name}")


@pytest.mark.parametrize(
    "words", [STATUSES, EXPORT_STATUSES, tuple(EXPORT_GRANULARITIES)], ids=["event", "job", "granularity"]
)
def test_the_tables_allow_exactly_the_words_of_the_code(words: tuple[str, ...]) -> None:
    lists = [tuple(re.findall(r"'(\w+)'", found)) for found in re.findall(r"\bIN \(([^()]*)\)", MIGRATIONS)]
    assert words in lists
    assert not any(set(words) < set(found) for found in lists)


def test_the_description_names_the_words_of_the_code() -> None:
    assert parameter("incidents/export", "status")["enum"] == list(STATUSES)
    assert SCHEMAS["UsageEvent"]["properties"]["status"]["enum"] == list(STATUSES)
    assert parameter("exports", "status")["enum"] == list(EXPORT_STATUSES)
    job = SCHEMAS["ExportJob"]["properties"]
    assert job["status"]["enum"] == list(EXPORT_STATUSES)
    assert job["granularity"]["enum"] == list(EXPORT_GRANULARITIES)
    assert job["compression"]["enum"] == list(COMPRESSIONS)
    assert parameter("reliability", "granularity")["enum"] == list(MAX_WINDOWS)
    assert parameter("usage", "granularity")["enum"] == [word for word in MAX_WINDOWS if word != "minute"]
    assert parameter("usage", "orderBy")["enum"] == list(ORDERS)


def test_the_description_names_the_limits_of_the_code() -> None:
    rows = parameter("incidents/export", "maxRows")
    assert (rows["maximum"], rows["default"]) == (MAX_ROWS, DEFAULT_ROWS)
    assert SCHEMAS["Freshness"]["properties"]["entries"]["maxItems"] == MAX_ENTRIES
    said = DOCUMENT["paths"]["/analytics/v1/orgs/{orgId}/usage"]["get"]["description"]
    assert f"{MAX_POINTS:,} points" in said
