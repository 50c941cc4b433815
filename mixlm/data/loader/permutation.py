"""Permutations as functions of whole numbers, with a table and without; the same on every machine and version."""

import hashlib

import numpy as np
from jaxtyping import Int64, UInt64

_FEISTEL_ROUNDS = 6  # Ours: four give a pseudo-random permutation in theory (Luby and Rackoff), six leave a margin.


def permutation(size: int, *key: int) -> Int64[np.ndarray, " size"]:
    """A permutation of range(size), uniform over the keys."""
    return np.argsort(_words(*key, count=size), kind="stable").astype(np.int64)


def round_keys(*key: int) -> UInt64[np.ndarray, " rounds"]:
    """The round keys of `shuffled`."""
    return _words(*key, count=_FEISTEL_ROUNDS)


def shuffled(index: int, size: int, keys: UInt64[np.ndarray, " rounds"]) -> int:
    """A permutation of range(size) without a table: a Feistel network on the next even number of bits.

    Values that fall outside of the range walk on along their cycle until they are back in it.
    """
    half = max((size - 1).bit_length() + 1, 2) // 2
    mask = (1 << half) - 1
    numbers = [int(key) for key in keys]
    while True:
        left, right = index >> half, index & mask
        for number in numbers:
            left, right = right, left ^ (_mixed(right ^ number) & mask)
        index = left << half | right
        if index < size:
            return index


def all_shuffled(size: int, keys: UInt64[np.ndarray, " rounds"]) -> Int64[np.ndarray, " size"]:
    """`shuffled(index, size, keys)` of every index."""
    half = np.uint64(max((size - 1).bit_length() + 1, 2) // 2)
    mask = (np.uint64(1) << half) - np.uint64(1)
    places = np.arange(size, dtype=np.uint64)
    outside = np.arange(size)
    while len(outside):
        left, right = places[outside] >> half, places[outside] & mask
        for key in keys:
            left, right = right, left ^ (_all_mixed(right ^ key) & mask)
        places[outside] = left << half | right
        outside = outside[places[outside] >= size]
    return places.astype(np.int64)


def _words(*key: int, count: int) -> UInt64[np.ndarray, " count"]:
    """Random words as a function of whole numbers; numpy keeps Philox's raw stream the same over its versions."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.Philox(key=np.frombuffer(digest[:16], "<u8")).random_raw(count)


def _mixed(word: int) -> int:
    """The finaliser of splitmix64: every output bit depends on every input bit."""
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ word >> 27) * 0x94D049BB133111EB % 2**64
    return word ^ word >> 31


def _all_mixed(words: UInt64[np.ndarray, " N"]) -> UInt64[np.ndarray, " N"]:
    """`_mixed` of many words; numpy's products wrap around."""
    words = (words ^ words >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ words >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return words ^ words >> np.uint64(31)
