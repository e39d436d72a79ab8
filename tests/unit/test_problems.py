"""Problem documents: one shape for every refusal."""

import json
from http import HTTPStatus

import pytest

from gateway.http.problems import Fault, Problem


@pytest.mark.parametrize(
    ("status", "slug"),
    [
        (400, "invalid-request"),
        (401, "unauthenticated"),
        (403, "forbidden"),
        (404, "not-found"),
        (414, None),
        (431, None),
        (501, None),
        (503, "dependency-unavailable"),
    ],
)
def test_every_status_has_a_type_of_plain_words(status: int, slug: str | None) -> None:
    document = json.loads(Problem(status, "No.").body(instance="/here"))
    words = document["type"].removeprefix("urn:problem:analytics:")
    assert slug in {None, words}
    assert words.replace("-", "").isalpha()
    assert words == words.lower()
    assert document == {
        "type": document["type"],
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": "No.",
        "instance": "/here",
    }


def test_a_slug_of_its_own_takes_the_place_of_the_statuses() -> None:
    assert Problem(409, "Too late.", slug="export-expired").slug == "export-expired"


def test_an_invalid_request_lists_every_fault_and_its_detail_the_first_few() -> None:
    faults = [Fault(field=f"p{number}", reason="is bad") for number in range(7)]
    problem = Problem.invalid(faults)
    document = json.loads(problem.body(instance="/"))
    assert document["errors"] == faults
    assert document["detail"].startswith("p0 is bad; p1 is bad;")
    assert "p5" not in document["detail"]
    assert "2 more" in document["detail"]


def test_a_fault_of_the_whole_request_reads_as_a_sentence() -> None:
    document = json.loads(Problem.invalid([Fault(field="", reason="the body is no JSON")]).body(instance="/"))
    assert "the body is no JSON" in document["detail"]
    assert not document["detail"].startswith(" ")


@pytest.mark.parametrize("text", ['"quoted"', "\u212a\U0001f600", "a\nb\x00", "\\"])
def test_any_path_and_detail_make_a_readable_document(text: str) -> None:
    document = json.loads(Problem(404, text).body(instance=f"/{text}"))
    assert (document["detail"], document["instance"]) == (text, f"/{text}")
