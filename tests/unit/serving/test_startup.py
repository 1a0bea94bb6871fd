from __future__ import annotations

import warnings

from gptoss_ray.ranks.load_progress import LoadProgress

with warnings.catch_warnings():
    # Importing Serve warns of how Serve uses pydantic.
    warnings.simplefilter("ignore")
    from gptoss_ray.serving.startup import _loading_text


def test_each_rank_of_each_model_is_shown():
    text = _loading_text(
        {
            "b#owner#0": LoadProgress("importing"),
            "a#owner#1": LoadProgress("loaded", 1.0),
            "a#owner#0": LoadProgress("loading", 0.43),
        }
    )
    assert text == "a: rank 0 loading 43%, rank 1 loaded; b: rank 0 importing"


def test_of_many_ranks_those_are_shown_that_the_others_wait_for():
    progress = {f"a#owner#{rank}": LoadProgress("loading", rank / 16) for rank in range(16)}
    progress["a#owner#10"] = LoadProgress("importing")
    assert _loading_text(progress) == (
        "a: rank 0 loading 0%, rank 1 loading 6%, rank 2 loading 12%, rank 10 importing"
    )


def test_before_any_rank_answers_there_is_nothing_to_show():
    assert _loading_text({}) == ""
