"""Loads, stores and copies at any byte offset of a uint8 array.

NumPy views need aligned offsets, which rows and records do not have. So the functions are LLVM's unaligned
instructions, checked against the range under NUMBA_BOUNDSCHECK=1, and the same in NumPy for plain Python.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..runtime.jit import CHECKED, JIT

if JIT:

    def _pointer(context, builder, array_type, array, offset):
        data = context.make_array(array_type)(context, builder, array).data
        return builder.gep(data, [offset])

    @intrinsic
    def _load64(typingctx, array, offset):
        def codegen(context, builder, signature, args):
            pointer = _pointer(context, builder, signature.args[0], *args)
            word = builder.bitcast(pointer, ir.IntType(64).as_pointer())
            return builder.load(word, align=1)

        return types.uint64(array, types.int64), codegen

    @intrinsic
    def _load16(typingctx, array, offset):
        def codegen(context, builder, signature, args):
            pointer = _pointer(context, builder, signature.args[0], *args)
            word = builder.bitcast(pointer, ir.IntType(16).as_pointer())
            return builder.load(word, align=1)

        return types.uint16(array, types.int64), codegen

    @intrinsic
    def _store64(typingctx, array, offset, value):
        def codegen(context, builder, signature, args):
            pointer = _pointer(context, builder, signature.args[0], *args[:2])
            builder.store(args[2], builder.bitcast(pointer, ir.IntType(64).as_pointer()), align=1)
            return context.get_dummy_value()

        return types.void(array, types.int64, types.uint64), codegen

    @intrinsic
    def _copy(typingctx, target, at, source, start, length):
        def codegen(context, builder, signature, args):
            to = _pointer(context, builder, signature.args[0], *args[:2])
            of = _pointer(context, builder, signature.args[2], *args[2:4])
            cgutils.raw_memcpy(builder, to, of, args[4], 1)
            return context.get_dummy_value()

        return types.void(target, types.int64, source, types.int64, types.int64), codegen

    @intrinsic
    def _prefetch(typingctx, array, index):
        def codegen(context, builder, signature, args):
            pointer = _pointer(context, builder, signature.args[0], *args)
            byte = builder.bitcast(pointer, ir.IntType(8).as_pointer())
            int32 = ir.IntType(32)
            function = builder.module.declare_intrinsic(
                "llvm.prefetch", [byte.type], ir.FunctionType(ir.VoidType(), [byte.type, int32, int32, int32])
            )
            builder.call(function, [byte, int32(0), int32(3), int32(1)])
            return context.get_dummy_value()

        return types.void(array, types.int64), codegen

    @intrinsic
    def _fence(typingctx):
        def codegen(context, builder, signature, args):
            builder.fence("acq_rel")
            return context.get_dummy_value()

        return types.void(), codegen

    @njit(inline="always")
    def _inside(array, start, length):
        if CHECKED and (start < 0 or length < 0 or start + length > array.size):
            raise IndexError("bytes outside the array")

    @njit(inline="always")
    def load64(array, offset):
        """Return the little-endian uint64 at a byte offset."""
        _inside(array, offset, 8)
        return _load64(array, np.int64(offset))

    @njit(inline="always")
    def load16(array, offset):
        """Return the little-endian uint16 at a byte offset."""
        _inside(array, offset, 2)
        return _load16(array, np.int64(offset))

    @njit(inline="always")
    def store64(array, offset, value):
        """Store a uint64 at a byte offset."""
        _inside(array, offset, 8)
        _store64(array, np.int64(offset), np.uint64(value))

    @njit(inline="always")
    def copy(target, at, source, start, length):
        """Copy source[start : start + length] to target[at : at + length]; the ranges must not overlap."""
        _inside(target, at, length)
        _inside(source, start, length)
        _copy(target, np.int64(at), source, np.int64(start), np.int64(length))

    @njit(inline="always")
    def prefetch(array, index):
        """Prefetch the cache line of an element; a hint that can never fault."""
        _prefetch(array, np.int64(index))

    @njit(inline="always")
    def fence():
        """Let no load or store move from one side of this call to the other, as other threads see them."""
        _fence()

else:

    def load64(array, offset):
        if offset < 0 or offset + 8 > array.size:
            raise IndexError("bytes outside the array")
        return array[offset : offset + 8].view(np.uint64)[0]

    def load16(array, offset):
        if offset < 0 or offset + 2 > array.size:
            raise IndexError("bytes outside the array")
        return array[offset : offset + 2].view(np.uint16)[0]

    def store64(array, offset, value):
        array[offset : offset + 8] = np.array([value], np.uint64).view(np.uint8)

    def copy(target, at, source, start, length):
        target[at : at + length] = source[start : start + length]

    def prefetch(array, index):
        return None

    def fence():
        return None
