"""Hashes and checks, against plain Python: SipHash-1-3 as CPython has it, CRC-16 as a long division."""

from __future__ import annotations

import ast
import random
import subprocess
import sys

import numpy as np
import pytest

from pmkv.kernels.hashing import check16, place_of, siphash

U = np.uint64
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")  # in plain Python
MASK = (1 << 64) - 1
G = 0x11265
rng = random.Random(1)


def array(data: bytes) -> np.ndarray:
    return np.frombuffer(data or b"\0", np.uint8)


def sip(data: bytes, k0: int = 0, k1: int = 0) -> int:
    return int(siphash(array(data), 0, len(data), U(k0), U(k1)))


def model_siphash(data: bytes, k0: int, k1: int) -> int:
    def rotate(x: int, bits: int) -> int:
        return (x << bits | x >> (64 - bits)) & MASK

    def rounds(count: int) -> None:
        for _ in range(count):
            v[0] = (v[0] + v[1]) & MASK
            v[2] = (v[2] + v[3]) & MASK
            v[1], v[3] = rotate(v[1], 13) ^ v[0], rotate(v[3], 16) ^ v[2]
            v[0] = rotate(v[0], 32)
            v[2] = (v[2] + v[1]) & MASK
            v[0] = (v[0] + v[3]) & MASK
            v[1], v[3] = rotate(v[1], 17) ^ v[2], rotate(v[3], 21) ^ v[0]
            v[2] = rotate(v[2], 32)

    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]
    padded = data + bytes(-(len(data) + 1) % 8) + bytes([len(data) & 255])
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        v[3] ^= word
        rounds(1)
        v[0] ^= word
    v[2] ^= 255
    rounds(3)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


@pytest.mark.skipif(sys.hash_info.algorithm != "siphash13", reason="this Python hashes bytes in another way")
def test_siphash_is_that_of_cpython() -> None:
    samples = [bytes(range(n)) for n in range(1, 41)] + [b"key:%d" % i for i in range(20)]
    program = f"print([hash(s) for s in {samples!r}])"
    unsalted = {"PYTHONHASHSEED": "0"}
    shown = subprocess.run([sys.executable, "-c", program], env=unsalted, capture_output=True, check=True)
    for sample, expected in zip(samples, ast.literal_eval(shown.stdout.decode()), strict=True):
        assert sip(sample) == expected & MASK, sample


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 15, 16, 63, 255, 256, 300])
def test_siphash_agrees_with_the_model_under_any_key(length: int) -> None:
    data, k0, k1 = rng.randbytes(length), rng.getrandbits(64), rng.getrandbits(64)
    assert sip(data, k0, k1) == model_siphash(data, k0, k1)


def test_siphash_takes_a_slice_at_any_offset() -> None:
    data = rng.randbytes(40)
    for start in range(9):
        assert int(siphash(array(data), start, 21, U(7), U(9))) == model_siphash(data[start : start + 21], 7, 9)


def test_places_are_a_bijection_that_depends_on_the_seed() -> None:
    words = range(500)
    places = {int(place_of(U(word), U(3))) for word in words}
    assert len(places) == len(words)
    assert places.isdisjoint(int(place_of(U(word), U(1 << 40))) for word in words)


def test_a_place_is_splitmix64() -> None:
    # the first output of SplitMix64 from state 0 is its finaliser applied to the golden gamma
    assert int(place_of(U(0x9E3779B97F4A7C15), U(0))) == 0xE220A8397B1DCDAF


def check(data: bytes, owner: int = 0, ident: int = 0, start: int = 0, length: int | None = None) -> int:
    return int(check16(array(data), start, len(data) if length is None else length, U(owner), U(ident)))


def residue(polynomial: int) -> int:
    """The rest of a division by G, bit by bit."""
    while (excess := polynomial.bit_length() - G.bit_length()) >= 0:
        polynomial ^= G << excess
    return polynomial


def model_check16(data: bytes, owner: int, ident: int) -> int:
    body = int.from_bytes(data, "little")  # bit i of byte j stands for x^(8j + i)
    x64 = 1 << 64

    def times(a: int, b: int) -> int:
        product = 0
        while b:
            product ^= a << (b.bit_length() - 1)
            b ^= 1 << (b.bit_length() - 1)
        return product

    whole = times(body, x64) ^ ident
    whole = times(whole, x64) ^ owner ^ (len(data) << 32)
    return residue(times(whole, x64) ^ 0x9E3779B97F4A7C15)


@pytest.mark.parametrize("length", [*range(34), 63, 64, 65, 96, 100, 256, 257, 320, 511, 512, 520, 1000])
def test_check16_is_a_long_division(length: int) -> None:
    data, owner, ident = rng.randbytes(length), rng.getrandbits(33), rng.getrandbits(64)
    assert check(data, owner, ident) == model_check16(data, owner, ident)


def test_check16_takes_a_slice_at_any_offset() -> None:
    data = rng.randbytes(80)
    for start in range(9):
        assert check(data, 5, 6, start, 45) == model_check16(data[start : start + 45], 5, 6)


def test_check16_tells_owners_ids_and_lengths_apart() -> None:
    data = bytes(24)
    seen = {check(data, owner, ident) for owner in (1, 2, 1 << 32) for ident in (0, 1, MASK)}
    assert len(seen) == 9
    assert len({check(bytes(length)) for length in range(40)}) == 40
    assert check(bytes(64)) != 0, "zeros must not look whole"


@pytest.mark.parametrize("length", [1, 8, 37])
def test_check16_sees_every_flipped_bit_and_every_burst(length: int) -> None:
    data = rng.randbytes(length)
    whole, number = check(data, 9, 4), int.from_bytes(data, "little")
    for bit in range(8 * length):
        for burst in {1, 3, 0x8001, 0xFFFF, rng.getrandbits(15) << 1 | 1}:
            if bit + burst.bit_length() <= 8 * length:
                damaged = (number ^ burst << bit).to_bytes(length, "little")
                assert check(damaged, 9, 4) != whole, (bit, hex(burst))


def test_check16_sees_every_two_flipped_bits_of_a_row() -> None:
    # linear: the check of a change is that of the difference, whatever the row holds
    rest, power = set(), 1
    for _ in range(57_337):
        rest.add(power)
        power = residue(power << 1)
    assert len(rest) == 57_337, "two single bits with the same residue would cancel each other"
    assert 0 not in rest


def test_the_generator_divides_what_the_shifts_rely_on() -> None:
    assert residue(1 << 64 ^ 1 << 3 ^ 1) == 0
    assert residue(1 << 256 ^ 1 << 12 ^ 1) == 0
