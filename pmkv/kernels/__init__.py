"""Loops on arrays, compiled by numba: hash, check, probe, insert, gather, pack, reduce.

Every kernel is a pure function of its arguments (arrays, offsets, widths), with an explicit signature, so that nothing
compiles once the modules are imported; `python -m pmkv.kernels` compiles all of them into the cache.
The same source runs as plain Python under NUMBA_DISABLE_JIT=1 and with checked indices under NUMBA_BOUNDSCHECK=1.
"""
