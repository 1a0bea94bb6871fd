from __future__ import annotations

from types import SimpleNamespace

import pytest

from gptoss_ray.demo_training import train


class MinuteSteps:
    """A trainer whose steps take a minute each by the clock that it sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.progress = SimpleNamespace(seconds=0.0, step=0, num_tokens=0)
        self.shares: list[float] = []
        monkeypatch.setattr(train.time, "monotonic", lambda: 60.0 * self.progress.step)

    def step(self, share: float) -> float:
        self.shares.append(share)
        self.progress.step += 1
        return 0.5


def test_a_run_saves_every_five_minutes_evaluates_every_twenty_and_ends_on_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = MinuteSteps(monkeypatch)
    saved: list[int] = []
    evaluated: list[int] = []
    save, report = (
        (lambda: saved.append(trainer.progress.step)),
        (lambda: evaluated.append(trainer.progress.step)),
    )
    train._train(trainer, 45 * 60, save, report)  # type: ignore[arg-type]
    assert saved == [5, 10, 15, 20, 25, 30, 35, 40, 45]
    assert evaluated == [20, 40]
    assert trainer.progress.seconds == 45 * 60
    assert trainer.shares[:2] == [0.0, 1 / 45]
    assert " 44.0 min, 1.0 to go | step 44 | " in capsys.readouterr().out
