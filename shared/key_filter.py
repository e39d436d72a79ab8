"""Filters of event ids: which of some ids a closed part of the ledger may have. They never forget one.

A blocked Bloom filter: an id chooses a block of 512 bits, a cache line, and sets one bit in each of its eight
words. Each unknown id that passes costs a look into the part, as many of a small part as of a large one,
while memory goes with the ids. So a small part's filter has more bits an id: 3 of 1,000 pass, and 8 of a
large one's (measured; tests/unit/test_key_filter.py). Organisations play no role: the same id in another one
passes too. All work is done on arrays of ids, some hundredths of a microsecond for each and filter.

The bits are stored, so what is computed here must never change. A filter is stored in slices of at most a
MiB. After J. Putze, P. Sanders, J. Singler: Cache-, hash- and space-efficient Bloom filters (2007).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_KEYS_A_BLOCK, _KEYS_A_BLOCK_OF_SMALL = 48, 40
_WORDS = 8
_BLOCK_BITS = 64 * _WORDS
SLICE_BLOCKS = (1 << 20) // (_BLOCK_BITS // 8)
"""Blocks of a slice: a MiB of them. The last slice may be shorter."""

Words = NDArray[np.uint64]

_PAIR = np.dtype([("high", ">u8"), ("low", ">u8")])
# Odd constants, as multipliers need to be; from the public domain SplitMix64 and the bits of e and pi.
_MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SALTS = np.array(
    [
        0x47B6137B44974D91, 0x8824AD5BA2B7289D, 0x705495C72DF1424B, 0x9EFC49475C6BFB31,
        0xB7E151628AED2A6B, 0x243F6A8885A308D3, 0x13198A2E03707345, 0xA4093822299F31D1,
    ],
    np.uint64,
)  # fmt: skip
_LOW_HALF, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def blocks_for(keys: int, *, is_small: bool) -> int:
    """Return how many blocks the filter of a part of this many keys has; at least one.

    is_small: others of the ledger's parts are many times as large, or will be.
    """
    return max(1, -(-keys // (_KEYS_A_BLOCK_OF_SMALL if is_small else _KEYS_A_BLOCK)))


def hash_texts(event_ids: Sequence[str]) -> Words:
    """Return the hashes of UUIDs in their 36-character form."""
    return hash_pairs(np.frombuffer(bytes.fromhex("".join(event_ids).replace("-", "")), _PAIR))


def hash_pairs(pairs: NDArray[Any]) -> Words:
    """Return the hashes of UUIDs whose halves are in the fields `high` and `low`, big-endian."""
    high, low = pairs["high"].astype(np.uint64), pairs["low"].astype(np.uint64)
    mixed = high * _MIX[0] ^ low
    for factor in _MIX[1:]:
        mixed ^= mixed >> np.uint64(31)
        mixed *= factor
    return mixed ^ (mixed >> np.uint64(31))


class Probe:
    """Ids that filters are asked for: what does not depend on the filter is computed once."""

    def __init__(self, hashes: Words) -> None:
        self.places = hashes >> _HALF
        low = (hashes & _LOW_HALF) | np.uint64(1)
        self.masks: Words = np.uint64(1) << ((low[:, None] * _SALTS) >> np.uint64(58))


class KeyFilter:
    """A filter of `blocks` blocks, or a run of them: from `first_block` on, `held_blocks` many."""

    def __init__(self, blocks: int, first_block: int = 0, held_blocks: int | None = None) -> None:
        self._blocks = np.uint64(blocks)
        self._first = first_block
        self._words: Words = np.zeros((blocks if held_blocks is None else held_blocks, _WORDS), np.uint64)

    @property
    def size_bytes(self) -> int:
        """Memory of its bits."""
        return self._words.nbytes

    def add(self, hashes: Words) -> None:
        """Put ids in; those that belong to blocks which are not held are passed over."""
        rows = (((hashes >> _HALF) * self._blocks) >> _HALF).astype(np.int64) - self._first
        held = (rows >= 0) & (rows < len(self._words))
        if not held.all():
            hashes, rows = hashes[held], rows[held]
        masks, at, words = Probe(hashes).masks, rows * _WORDS, self._words.reshape(-1)
        for word in range(_WORDS):
            np.bitwise_or.at(words, at + word, masks[:, word])

    def may_have(self, probe: Probe) -> NDArray[np.bool_]:
        """Return for each id whether it may be among those put in; False is certain. Holds all blocks."""
        rows = ((probe.places * self._blocks) >> _HALF).astype(np.int64)
        words, masks, at = self._words.reshape(-1), probe.masks, rows * _WORDS
        found: NDArray[np.bool_] = (words.take(at) & masks[:, 0]) != 0
        found &= (words.take(at + 1) & masks[:, 1]) != 0
        left = found.nonzero()[0]  # a quarter of the unknown ids; only these are worth all eight words
        masks = masks.take(left, axis=0)
        found[left] = (self._words.take(rows[left], axis=0) & masks == masks).all(axis=1)
        return found

    def slice_bytes(self, number: int) -> bytes:
        """Return a slice of the held blocks, little-endian."""
        start = number * SLICE_BLOCKS
        return self._words[start : start + SLICE_BLOCKS].astype("<u8").tobytes()

    def load_slice(self, number: int, bits: memoryview | bytes) -> None:
        """Take over a slice of the held blocks. Raises ValueError if it is not as long as it must be."""
        held = self._words[number * SLICE_BLOCKS : (number + 1) * SLICE_BLOCKS]
        if len(bits) != held.nbytes:
            raise ValueError(f"a slice of {len(bits)} bytes where {held.nbytes} belong")
        held[:] = np.frombuffer(bits, "<u8").reshape(-1, _WORDS)
