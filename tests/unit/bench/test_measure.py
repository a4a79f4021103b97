"""The arithmetic of the benchmarks, without a server."""

from __future__ import annotations

from bench.measure import Comparison, Figure, Spread, in_pairs
from bench.network import parse
from bench.report import save

OUTPUT = """WARNING: Could not fetch server CONFIG
"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
"SET","118203.30","0.223","0.088","0.215","0.303","0.375","1.311"
"GET","133155.80","0.201","0.064","0.199","0.263","0.311","0.567"
"""


def test_redis_benchmark_is_read() -> None:
    assert parse(OUTPUT) == {"SET": 118203.30, "GET": 133155.80}


def test_sides_alternate_and_the_first_round_does_not_count() -> None:
    order: list[str] = []

    def side(name: str, values: list[float]):
        def run() -> dict[str, float]:
            order.append(name)
            return {"x": values.pop(0)}

        return run

    [comparison] = in_pairs(side("a", [99, 2, 4, 6]), side("b", [99, 1, 4, 2]), 3, "things/s", {"x": 1.5})
    assert order == ["a", "b"] * 4
    assert comparison.ratio.values == [2, 1, 3]
    assert f"{comparison.ratio:.1f}" == "2.0 (1.0..3.0)"
    assert comparison.holds


def test_a_bar_that_is_missed_says_so() -> None:
    assert Comparison("x", "u", [1.0], [2.0], bar=0.8).holds is False
    assert Comparison("x", "u", [1.0], [2.0]).holds is None
    assert Figure("x", "B/id", [39.0, 41.0], bar=40.0).holds is False  # every value counts, not the median
    assert Figure("x", "B/id", [39.0, 40.0], bar=40.0).holds is True
    assert f"{Spread([1.0]):.1f}" == "1.0"


def test_results_are_kept(tmp_path) -> None:
    path = save(tmp_path, {"s": [Comparison("x", "u", [1.0], [2.0], bar=0.8), Figure("y", "s", [1.0])]})
    assert '"ratio": 0.5' in path.read_text()
