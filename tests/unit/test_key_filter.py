"""The filters of closed parts: what is in is always found, what is not is nearly always told from it."""

import random
from hashlib import blake2b
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.key_filter import SLICE_BLOCKS, KeyFilter, Probe, blocks_for, hash_pairs, hash_texts

IDS = st.lists(st.uuids(allow_nil=True), max_size=300, unique=True)


def texts(ids: list[UUID]) -> list[str]:
    return [str(each) for each in ids]


def filter_of(ids: list[UUID], blocks: int | None = None) -> KeyFilter:
    made = KeyFilter(blocks or blocks_for(len(ids), is_small=True))
    made.add(hash_texts(texts(ids)))
    return made


def copied(made: KeyFilter, blocks: int) -> KeyFilter:
    """Return the filter as it comes back from its slices."""
    loaded = KeyFilter(blocks)
    for number in range(-(-blocks // SLICE_BLOCKS)):
        loaded.load_slice(number, made.slice_bytes(number))
    return loaded


@settings(deadline=None)  # a busy machine takes long for an example now and then
@given(ids=IDS, others=IDS, blocks=st.integers(1, 40))
def test_whatever_was_put_in_is_found_however_small_the_filter(
    ids: list[UUID], others: list[UUID], blocks: int
) -> None:
    made = filter_of(ids, blocks)
    made.add(hash_texts(texts(others)))
    asked = Probe(hash_texts(texts(ids + others)))
    assert made.may_have(asked).all()
    assert copied(made, blocks).may_have(asked).all()


@settings(deadline=None)
@given(ids=IDS, blocks=st.integers(2, 30), cut=st.integers(1, 29))
def test_a_filter_made_in_runs_of_blocks_is_the_one_made_at_once(
    ids: list[UUID], blocks: int, cut: int
) -> None:
    cut = min(cut, blocks - 1)
    whole, hashes = filter_of(ids, blocks), hash_texts(texts(ids))
    runs = KeyFilter(blocks, 0, cut), KeyFilter(blocks, cut, blocks - cut)
    for run in runs:
        run.add(hashes)
    assert runs[0].slice_bytes(0) + runs[1].slice_bytes(0) == whole.slice_bytes(0)


@settings(deadline=None)
@given(ids=IDS)
def test_ids_as_text_and_as_bytes_are_the_same(ids: list[UUID]) -> None:
    pairs = np.frombuffer(b"".join(each.bytes for each in ids), [("high", ">u8"), ("low", ">u8")])
    assert (hash_texts(texts(ids)) == hash_pairs(pairs)).all()


@pytest.mark.parametrize("version", ["random", "ordered by time", "counted"])
def test_of_a_thousand_unknown_ids_three_pass_of_a_small_part_and_eight_of_a_large_one_of_any_kind(
    version: str,
) -> None:
    rng = random.Random(1)

    def make(number: int) -> UUID:
        if version == "random":
            return UUID(int=rng.getrandbits(128))
        if version == "counted":
            return UUID(int=number)
        return UUID(int=(1_764_000_000_000 + number // 30) << 80 | 7 << 76 | rng.getrandbits(74))

    ids = [make(number) for number in range(200_000)]
    others = Probe(hash_texts(texts([make(number) for number in range(200_000, 300_000)])))
    for is_small, least, most in ((True, 0.002, 0.004), (False, 0.006, 0.0095)):
        made = filter_of(ids, blocks_for(len(ids), is_small=is_small))
        assert least < made.may_have(others).mean() < most


def test_the_bits_that_are_stored_never_change() -> None:
    """Filters outlive releases: a change here would make every stored one forget its keys."""
    made = filter_of(
        [UUID(int=number * 0x0123456789ABCDEF0123456789ABCDEF % 2**128) for number in range(500)], 11
    )
    assert blake2b(made.slice_bytes(0), digest_size=8).hexdigest() == "9586b52af0d83762"


def test_a_slice_of_another_length_is_refused() -> None:
    for blocks in (1, 2, 4):
        with pytest.raises(ValueError, match="where 192 belong"):
            KeyFilter(3).load_slice(0, bytes(blocks * 64))


def test_the_memory_of_filters_goes_with_their_keys_and_is_at_least_a_block() -> None:
    assert [blocks_for(keys, is_small=True) for keys in (0, 1, 40, 41)] == [1, 1, 1, 2]
    assert [blocks_for(keys, is_small=False) for keys in (0, 1, 48, 49)] == [1, 1, 1, 2]
    parts = blocks_for(80_000_000, is_small=False) + blocks_for(20_000_000, is_small=True)
    assert parts * 64 < 139e6
