"""The rule for texts that a spreadsheet would run is the same in SQL and in Python, for every character."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2.extensions import connection

from shared.csv_text import spreadsheet_text
from tests.support.csv_cells import NOT_RUN, RUN

ANY = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
MARKED = "".join({character for text in RUN for character in text})
TEXT = st.text(ANY | st.sampled_from(MARKED), max_size=12)

MARKED_IN_SQL = """
    SELECT code
    FROM (SELECT generate_series(1, 55295) UNION ALL SELECT generate_series(57344, 1114111)) AS codes(code)
    WHERE analytics.spreadsheet_text(chr(code) || %(rest)s) <> chr(code) || %(rest)s
"""


def in_sql(owner: connection, texts: list[str]) -> list[str]:
    with owner.cursor() as cur:
        cur.execute(
            "SELECT analytics.spreadsheet_text(text) "
            "FROM unnest(%s) WITH ORDINALITY AS texts (text, at) ORDER BY at",
            (texts,),
        )
        return [text for (text,) in cur.fetchall()]


def test_every_character_at_the_beginning_is_judged_alike(owner: connection) -> None:
    everything = [*range(1, 0xD800), *range(0xE000, 0x110000)]
    for rest in ("=1", "x"):
        with owner.cursor() as cur:
            cur.execute(MARKED_IN_SQL, {"rest": rest})
            found = {code for (code,) in cur.fetchall()}
        assert found == {
            code for code in everything if spreadsheet_text(chr(code) + rest) != chr(code) + rest
        }


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXT, min_size=1, max_size=50))
def test_random_texts_are_judged_alike(owner: connection, texts: list[str]) -> None:
    assert in_sql(owner, texts) == [spreadsheet_text(text) for text in texts]


def test_the_known_texts_are_judged_alike(owner: connection) -> None:
    assert in_sql(owner, [*RUN, *NOT_RUN]) == [f"'{text}" for text in RUN] + NOT_RUN
