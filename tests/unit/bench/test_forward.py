from __future__ import annotations

from gptoss_ray.bench.forward import measure
from gptoss_ray.checkpoint.synthetic import tiny_config, write_checkpoint


def test_every_pass_is_timed_and_its_tokens_are_counted(tmp_path):
    write_checkpoint(tmp_path, tiny_config(max_context=256))
    results = measure(str(tmp_path), decode_rows=(1, 3), prefill_tokens=40, context=20, repeats=2)
    rows = [result.row() for result in results]
    assert [(row["pass"], row["tokens"]) for row in rows] == [
        ("prefill", 40),
        ("decode at 20", 1),
        ("decode at 20", 3),
    ]
    assert all(0 < row["best_ms"] <= row["median_ms"] for row in rows)
    assert [len(result.seconds) for result in results] == [2, 2, 2]
