"""Hashes, and the check of a record.

- `siphash`: SipHash-1-3 of a key's bytes (Aumasson and Bernstein 2012), seeded by the pool, so that no client can
  choose colliding keys.
- `mix`: a seeded bijection of uint64 (the finaliser of SplitMix64): the slot hash of a key64, which is an id or the
  hash of a key.
- `check16`: the CRC-16 in a location, generator polynomial G = 0x11265: it detects every single-bit flip, every burst
  of up to 16 bits and every two-bit flip less than 57,337 bits apart. G divides x^64 + x^3 + 1, so x^64 = x^3 + 1
  (mod G) and, squaring, x^256 = x^12 + 1: eight bytes are taken in with three shifts and four XORs, four independent
  words at a time, without tables.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..runtime.jit import BYTES, CHECKED, INT, JIT, WORD, kernel
from .memory import load64

U = np.uint64
_SIP = (U(0x736F6D6570736575), U(0x646F72616E646F6D), U(0x6C7967656E657261), U(0x7465646279746573))
GENERATOR = 0x11265
LANES = 8  # words of a vector
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
    """Return the last `length` (0 to 7) bytes as a little-endian number."""
    word = U(0)
    for i in range(length):
        word |= U(array[start + i]) << U(8 * i)
    return word


@kernel(BYTES, INT, INT, WORD, WORD)
def siphash(data, start, length, k0, k1):
    """Return the SipHash-1-3 of data[start : start + length]."""
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
    """Return the image of x under a seeded bijection of uint64."""
    x = x ^ seed
    x = (x ^ (x >> U(30))) * _MIX1
    x = (x ^ (x >> U(27))) * _MIX2
    return x ^ (x >> U(31))


@kernel(WORD, WORD)
def place_of(word, seed):
    """Return `mix` of a key64, its slot hash, to callers that are no kernels."""
    return mix(word, seed)


@njit(inline="always")
def times_x64(a):
    """Return a * x^64 modulo x^64 + x^3 + 1."""
    high = a >> U(61)
    return a ^ (a << U(3)) ^ high ^ (high << U(3))


if JIT and not CHECKED:

    def _times(builder, a, words):
        """a * x^(64 * words) modulo x^64 + x^3 + 1, for words = 1, 2, 4, 8; `a` is a vector, or one word."""
        lanes = a.type.count if isinstance(a.type, ir.VectorType) else 0

        def by(bits):
            return ir.Constant(a.type, [bits] * lanes if lanes else bits)

        high = builder.lshr(a, by(64 - 3 * words))
        low = builder.xor(a, builder.shl(a, by(3 * words)))
        return builder.xor(low, builder.xor(high, builder.shl(high, by(3))))

    def _half(builder, a, first):
        lanes = a.type.count // 2
        if lanes == 1:
            return builder.extract_element(a, ir.Constant(ir.IntType(32), first))
        chosen = ir.Constant(ir.VectorType(ir.IntType(32), lanes), list(range(first, first + lanes)))
        return builder.shuffle_vector(a, a, chosen)

    @intrinsic
    def _fold(typingctx, array, start, words, a):
        def codegen(context, builder, signature, args):
            data = context.make_array(signature.args[0])(context, builder, args[0]).data
            vector, size = ir.VectorType(ir.IntType(64), LANES), args[2].type
            step = ir.Constant(size, -LANES)
            last = builder.add(args[2], step)
            lanes = builder.insert_element(ir.Constant(vector, None), args[3], ir.Constant(ir.IntType(32), 0))
            kept = cgutils.alloca_once_value(builder, lanes)
            with cgutils.for_range_slice(builder, last, step, step, inc=False) as (word, _):
                place = builder.gep(data, [builder.add(args[1], builder.shl(word, ir.Constant(size, 3)))])
                more = builder.load(builder.bitcast(place, vector.as_pointer()), align=1)
                builder.store(builder.xor(_times(builder, builder.load(kept), LANES), more), kept)
            lanes = builder.load(kept)
            for half in (4, 2, 1):
                lanes = builder.xor(_half(builder, lanes, 0), _times(builder, _half(builder, lanes, half), half))
            return lanes

        return types.uint64(array, types.int64, types.int64, types.uint64), codegen

    @njit(inline="always")
    def fold(data, start, words, a):
        """a * x^(64 * words), and that many words from `start` on, a multiple of eight."""
        return _fold(data, np.int64(start), np.int64(words), a)

else:

    @njit(inline="always")
    def fold(data, start, words, a):
        while words:
            words -= 1
            a = times_x64(a) ^ load64(data, start + 8 * words)
        return a


def residues() -> np.ndarray:
    """Return the table residues[k, b] = b * x^(8k) modulo G."""
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
    """Return a modulo G, 64 bits to 16.

    A byte at a time: one bit at a time costs more than the bytes of a row do."""
    total = U(0)
    for k in range(8):
        total ^= U(_RESIDUES[k, np.int64((a >> U(8 * k)) & U(255))])
    return total


@kernel(BYTES, INT, INT, WORD, WORD)
def check16(data, start, length, owner, ident):
    """Return the CRC-16 of (owner, ident, data[start : start + length]).

    owner: number of the table or keyspace; ident: id, or 0. Bit i of byte j stands for x^(8j + i): a burst in memory is
    a burst of the polynomial. Horner's rule runs from the end."""
    words, a = length >> 3, U(0)
    if length & 63:
        a = load_tail(data, start + 8 * words, length & 7)
        while words & (LANES - 1):
            words -= 1
            a = times_x64(a) ^ load64(data, start + 8 * words)
    if words:
        a = fold(data, start, words, a)
    a = times_x64(times_x64(a)) ^ times_x64(ident) ^ owner ^ (U(length) << U(32))
    # not zero for zeros: a zeroed page must not look like an empty record of owner 0
    return residue(times_x64(a) ^ U(0x9E3779B97F4A7C15))
