from __future__ import annotations

import re
from random import Random

from gptoss_ray.demo_training.skills import sums
from gptoss_ray.demo_training.split import is_held_out


def test_every_step_of_every_sum_and_difference_is_right() -> None:
    for a in range(100):
        for b in range(100):
            for steps, result in ((sums.sum_steps(a, b), a + b), (sums.difference_steps(a, b), a - b)):
                assert steps.endswith(f";{result}")
                for left, right in re.findall(r"([0-9+-]+)=(\d+)", steps.partition(":")[2]):
                    assert sum(map(int, re.findall(r"-?\d+", left))) == int(right)
                tens, ones = re.findall(r"=(\d+)", steps)[::-1]
                ones = str(int(ones) % 10) if "+" in steps else ones
                assert abs(result) == int(tens) * 10 + int(ones)


def test_a_held_out_pair_is_not_trained_in_either_order_or_operation() -> None:
    rng = Random(0)
    for _ in range(2000):
        turn = sums.draw(rng, held_out=False)
        a, b = map(int, re.match(r"(\d+) [+-] (\d+)", turn.answer).groups())  # type: ignore[union-attr]
        assert not is_held_out("operands", f"{min(a, b)},{max(a, b)}")
