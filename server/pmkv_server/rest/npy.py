"""Reading and writing of .npy and .npz bodies of untrusted clients.

Nothing is unpickled, no memory is allocated before the bytes that fill it have arrived, and arrays are views of the
body where possible.
"""

from __future__ import annotations

import ast
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .problems import invalid

MAX_NPY_HEADER_BYTES = 64 << 10
MAX_MEMBERS = 4096

Array = NDArray[Any]


def read_npy(data: bytes | memoryview, what: str = "the body") -> Array:
    """Return the array in a .npy file, which must have exactly its length. Raises Problem 400."""
    dtype, fortran, shape, start = _header(memoryview(data), what)
    size = math.prod(shape) * dtype.itemsize
    if len(data) - start != size:
        raise invalid(f"{what} announces {dtype} of shape {shape}, {size} bytes, and has {len(data) - start}")
    flat = np.frombuffer(data, dtype, offset=start) if size else np.empty(0, dtype)
    return flat.reshape(shape, order="F" if fortran else "C")


def _header(data: memoryview, what: str) -> tuple[np.dtype[Any], bool, tuple[int, ...], int]:
    if bytes(data[:6]) != b"\x93NUMPY" or len(data) < 12 or data[6] not in (1, 2, 3):
        raise invalid(f"{what} is not in .npy format (numpy.save)")
    short = data[6] == 1
    start = 10 if short else 12
    length = struct.unpack_from("<H" if short else "<I", data, 8)[0]
    if length > MAX_NPY_HEADER_BYTES or start + length > len(data):
        raise invalid(
            f"{what} has a .npy header of {length} bytes, which is more than the body or than {MAX_NPY_HEADER_BYTES}"
        )
    text = bytes(data[start : start + length]).decode("utf-8" if data[6] == 3 else "latin-1", "replace")
    try:
        return *_fields(ast.literal_eval(text)), start + length
    except (ValueError, TypeError, KeyError, SyntaxError, RecursionError, MemoryError, OverflowError) as error:
        raise invalid(f"{what} has a .npy header that cannot be read: {error}") from None


def _fields(header: Any) -> tuple[np.dtype[Any], bool, tuple[int, ...]]:
    dtype, shape = np.lib.format.descr_to_dtype(header["descr"]), header["shape"]
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never unpickled here")
    if not isinstance(shape, tuple) or not all(type(n) is int and 0 <= n < 1 << 48 for n in shape):
        raise ValueError(f"{shape!r} is not a shape")
    return dtype, bool(header["fortran_order"]), shape


def read_npz(data: bytes, limit: int) -> dict[str, Array]:
    """Return the arrays in a .npz file, at most `limit` bytes unpacked. Raises Problem 400."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS or sum(member.file_size for member in members) > limit:
                raise invalid(f"the .npz unpacks to more than {limit} bytes or {MAX_MEMBERS} arrays: send less at once")
            names = [member.filename.removesuffix(".npy") for member in members]
            return {
                name: read_npy(archive.read(member), f"'{name}'") for name, member in zip(names, members, strict=True)
            }
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise invalid(f"the body is not a .npz file (numpy.savez): {error}") from None


def write_npy(array: Array) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, allow_pickle=False)
    return out.getvalue()


def write_npz(arrays: Mapping[str, Array]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", write_npy(array))
    return out.getvalue()
