from __future__ import annotations

from gptoss_ray.demo_training.split import HELD_OUT_SHARE, is_held_out


def test_about_the_promised_share_is_held_out() -> None:
    held_out = sum(is_held_out("operands", str(number)) for number in range(10_000))
    assert abs(held_out / 10_000 - HELD_OUT_SHARE) < 0.01


def test_the_split_is_fixed_for_all_time_because_a_checkpoint_was_trained_on_it() -> None:
    assert [number for number in range(60) if is_held_out("operands", f"{number},{number}")] == [23, 25]
