"""When a request has arrived: alike in whatever pieces it comes, and no later than that can be known."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.arrival import MAX_BODY_BYTES, Arrival

GET = b"GET /x HTTP/1.1\r\nHost: y\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: y\r\n"
SIZED = POST + b"Content-Length: 5\r\n\r\nhello"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n"
MALFORMED = POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n"


def arrive(data: bytes, cuts: list[int]) -> tuple[int | None, Arrival]:
    """Send the data in pieces; return after how many bytes no more were needed."""
    arrival = Arrival(now=0)
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in pairwise(edges):
        arrival.add(data[start:end], now=1)
        if arrival.is_whole or arrival.refusal:
            return end, arrival
    return None, arrival


@given(st.sampled_from([GET, SIZED, CHUNKED, MALFORMED]), st.lists(st.integers(0, 200)))
def test_a_request_is_whole_with_its_last_byte_and_not_before(data: bytes, cuts: list[int]) -> None:
    end, arrival = arrive(data, cuts)
    assert end == len(data)
    assert arrival.is_whole
    assert not arrival.is_cut_short
    assert bytes(arrival.data) == data


@given(st.binary(max_size=300), st.lists(st.integers(0, 300)))
def test_no_bytes_break_it_and_pieces_make_no_difference(tail: bytes, cuts: list[int]) -> None:
    for begin in (b"", POST, POST + b"Transfer-Encoding: chunked\r\n\r\n"):
        at_once, whole = arrive(begin + tail, [])
        in_pieces, cut = arrive(begin + tail, cuts)
        assert (at_once is None) == (in_pieces is None)
        if not whole.refusal:
            assert whole.is_whole == cut.is_whole


def test_the_next_request_may_come_along() -> None:
    _, arrival = arrive(SIZED + GET, [])
    assert arrival.is_whole
    assert bytes(arrival.data) == SIZED + GET


@pytest.mark.parametrize(
    "head",
    [POST + b"Content-Length: 9999999999\r\n\r\n", POST + b"Transfer-Encoding: chunked\r\n\r\nfffffff\r\n"],
    ids=["sized", "chunked"],
)
def test_of_a_body_that_is_too_long_only_so_much_is_waited_for(head: bytes) -> None:
    arrival = Arrival(now=0)
    arrival.add(head + b"x" * MAX_BODY_BYTES, now=1)
    assert not arrival.is_whole
    arrival.add(b"x", now=1)
    assert arrival.is_whole
    assert arrival.is_cut_short


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\nHost: x\n\n", 400),
        (b"GET /" + b"a" * 200_000, 431),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 5000, 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 1_000_000, 413),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 2000, 431),
    ],
    ids=["bare LF", "endless line", "endless chunk line", "dust", "endless trailers"],
)
def test_what_would_never_end_is_refused(data: bytes, status: int) -> None:
    _, arrival = arrive(data, list(range(0, len(data), 1000)))
    assert arrival.refusal is not None
    assert arrival.refusal.status == status


def test_a_head_has_ten_seconds_and_a_body_what_its_size_needs() -> None:
    arrival = Arrival(now=100)
    arrival.add(GET[:10], now=105)
    assert arrival.deadline == 110
    arrival.add(GET[10:-4] + b"\r\nContent-Length: 655360\r\n\r\n", now=108)
    assert arrival.deadline == pytest.approx(108 + 10 + 10)
    huge = Arrival(now=0)
    huge.add(POST + b"Content-Length: 999999999999\r\n\r\n", now=0)
    assert huge.deadline < 30
    chunked = Arrival(now=0)
    chunked.add(POST + b"Transfer-Encoding: chunked\r\n\r\n", now=0)
    assert chunked.deadline == 10
