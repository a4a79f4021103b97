"""The counting of Python calls: which are counted, and what a trace says of them."""

from __future__ import annotations

import sys

from bench.calls import Trace, Tracer, command
from pmkv.runtime.sizes import parse_size


def test_calls_of_pmkv_are_counted_and_no_others() -> None:
    tracer = Tracer()
    before = sys.getprofile()
    sys.setprofile(tracer)
    try:
        trace = tracer.fewest(lambda: [parse_size("1GiB"), command(b"GET", b"a")])
    finally:
        sys.setprofile(before)
    assert trace.calls[0][1] is parse_size.__code__
    assert trace.files == 1 and trace.functions == len({code for _, code in trace.calls})


def test_moves_are_counted_by_thread() -> None:
    here, there = parse_size.__code__, command.__code__
    trace = Trace([(1, here), (2, there), (1, here), (2, there), (1, there), (1, here)])
    assert (trace.moves, trace.files, trace.functions) == (2, 2, 2)
