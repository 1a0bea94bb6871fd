from __future__ import annotations

from gptoss_ray.bench.collectives import run


def test_the_same_collectives_are_timed_over_shared_memory_and_over_gloo():
    rows = [result.row() for result in run(2, num_rows=2, hidden_size=8, repeats=5)]
    names = ["maximum of 8 integers", "exchange of 2 x 8 bf16"]
    assert [(row["wires"], row["collective"]) for row in rows] == [
        (wires, name) for wires in ("shared memory", "gloo") for name in names
    ]
    assert all(0 < row["p50_us"] <= row["p99_us"] for row in rows)
