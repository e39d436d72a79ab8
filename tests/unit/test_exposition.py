"""The format of /metrics follows the scraper's Accept, whatever stands in it."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter

from shared.exposition import exposition

registry = CollectorRegistry()
Counter("answers", "Answers.", registry=registry).inc()

PLAIN = "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, PLAIN),
        ("", PLAIN),
        ("*/*", PLAIN),
        ("application/json", PLAIN),
        ("application/openmetrics-text;version=x", PLAIN),
        ("application/openmetrics-text;version=1.0.0", "application/openmetrics-text; version=1.0.0"),
        ("text/plain;version=1.0.0;escaping=allow-utf-8", "text/plain; version=1.0.0"),
        ("text/plain;version=9..9", PLAIN),
    ],
)
def test_the_format_is_the_one_asked_for_and_plain_text_where_that_cannot_be_read(
    accept: str | None, content_type: str
) -> None:
    text, chosen = exposition(registry, accept)
    assert b"answers_total 1.0" in text
    assert chosen.startswith(content_type)


@given(
    st.builds(
        "{}/{};version={};{}".format,
        st.sampled_from(["text", "application"]),
        st.sampled_from(["plain", "openmetrics-text"]),
        st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0")),
        st.text(st.characters(max_codepoint=255)),
    )
)
@example("application/openmetrics-text;version=" + "9" * 5000)
@example("application/openmetrics-text;version=1.0.0\xff")
@example("text/plain;version=1.0\x0b")
def test_no_accept_header_breaks_it(accept: str) -> None:
    text, content_type = exposition(registry, accept)
    assert b"answers_total 1.0" in text
    assert content_type.isascii()
    assert content_type.isprintable()
