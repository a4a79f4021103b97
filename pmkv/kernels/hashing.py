"""Hashes and the check of a record.

- `siphash`: SipHash-1-3 of a key's bytes (Aumasson and Bernstein 2012), seeded by the pool, so that nobody can choose
  colliding keys.
- `mix`: a bijection of uint64 (the finaliser of SplitMix64), seeded: where an id or a key's hash stands in an index.
- `check16`: the CRC-16 in a location, generator polynomial G = 0x11265: it sees every single-bit flip, every burst
of up to 16 bits
  and every two-bit flip less than 57,337 bits apart. G divides x^64 + x^3 + 1, so x^64 = x^3 + 1 (mod G) and, squaring,
  x^256 = x^12 + 1: eight bytes are taken in with three shifts and four XORs, four independent words at a time,
  without tables.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .compile import BYTES, INT, WORD, kernel
from .memory import load64

U = np.uint64
_SIP = (U(0x736F6D6570736575), U(0x646F72616E646F6D), U(0x6C7967656E657261), U(0x7465646279746573))
GENERATOR = 0x11265
_MIX1, _MIX2 = U(0xBF58476D1CE4E5B9), U(0x94D049BB133111EB)


@njit(inline="always")
def rotate(x, bits):
    return (x << U(bits)) | (x >> U(64 - bits))


@njit(inline="always")
def sip_round(a, b, c, d):
    a = a + b
    c = c + d
    b = rotate(b, 13) ^ a
    d = rotate(d, 16) ^ c
    a = rotate(a, 32)
    c = c + b
    a = a + d
    b = rotate(b, 17) ^ c
    d = rotate(d, 21) ^ a
    c = rotate(c, 32)
    return a, b, c, d


@njit(inline="always")
def load_tail(array, start, length):
    """The last `length` (0 to 7) bytes as a little-endian number."""
    word = U(0)
    for i in range(length):
        word |= U(array[start + i]) << U(8 * i)
    return word


@kernel(BYTES, INT, INT, WORD, WORD)
def siphash(data, start, length, k0, k1):
    """SipHash-1-3 of data[start : start + length]."""
    a, b, c, d = _SIP[0] ^ k0, _SIP[1] ^ k1, _SIP[2] ^ k0, _SIP[3] ^ k1
    words = length >> 3
    for i in range(words):
        m = load64(data, start + 8 * i)
        d ^= m
        a, b, c, d = sip_round(a, b, c, d)
        a ^= m
    m = load_tail(data, start + 8 * words, length & 7) | (U(length & 255) << U(56))
    d ^= m
    a, b, c, d = sip_round(a, b, c, d)
    a ^= m
    c ^= U(255)
    for _ in range(3):
        a, b, c, d = sip_round(a, b, c, d)
    return a ^ b ^ c ^ d


@njit(inline="always")
def mix(x, seed):
    """A seeded bijection of uint64."""
    x = x ^ seed
    x = (x ^ (x >> U(30))) * _MIX1
    x = (x ^ (x >> U(27))) * _MIX2
    return x ^ (x >> U(31))


@kernel(WORD, WORD)
def place_of(word, seed):
    """`mix` for callers outside kernels."""
    return mix(word, seed)


@njit(inline="always")
def times_x64(a):
    """a * x^64 modulo x^64 + x^3 + 1."""
    high = a >> U(61)
    return a ^ (a << U(3)) ^ high ^ (high << U(3))


@njit(inline="always")
def times_x256(a):
    """a * x^256 modulo x^64 + x^3 + 1."""
    high = a >> U(52)
    return a ^ (a << U(12)) ^ high ^ (high << U(3))


def residues() -> np.ndarray:
    """residues[k, b] = b * x^(8k) modulo G."""
    table = np.zeros((8, 256), np.uint16)
    for k in range(8):
        for b in range(256):
            remainder = b << 8 * k
            while remainder >> 16:
                remainder ^= GENERATOR << (remainder.bit_length() - 17)
            table[k, b] = remainder
    return table


_RESIDUES = residues()


@njit(inline="always")
def residue(a):
    """a modulo G, 64 bits to 16: a byte at a time, since one bit at a time costs more than the bytes of a row do."""
    total = U(0)
    for k in range(8):
        total ^= U(_RESIDUES[k, np.int64((a >> U(8 * k)) & U(255))])
    return total


@kernel(BYTES, INT, INT, WORD, WORD)
def check16(data, start, length, owner, ident):
    """CRC-16 of (owner, ident, data[start : start + length]); owner: table or keyspace number, ident: id or 0.

    Bit i of byte j stands for x^(8j + i): a burst in memory is a burst of the polynomial. Horner's rule runs from
    the end.
    """
    words = length >> 3
    a = load_tail(data, start + 8 * words, length & 7)
    while words & 3:
        words -= 1
        a = times_x64(a) ^ load64(data, start + 8 * words)
    b, c, d = U(0), U(0), U(0)
    while words:
        words -= 4
        at = start + 8 * words
        a = times_x256(a) ^ load64(data, at)
        b = times_x256(b) ^ load64(data, at + 8)
        c = times_x256(c) ^ load64(data, at + 16)
        d = times_x256(d) ^ load64(data, at + 24)
    a = times_x64(times_x64(times_x64(d) ^ c) ^ b) ^ a
    a = times_x64(times_x64(a) ^ ident) ^ owner ^ (U(length) << U(32))
    # not zero for zeros: a zeroed page must not look like an empty record of owner 0
    return residue(times_x64(a) ^ U(0x9E3779B97F4A7C15))
