from __future__ import annotations

import pytest

from gptoss_ray.checkpoint.synthetic import write_checkpoint
from tests.support.group_requests import CONFIG, answers_of_one


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder, CONFIG, seed=23)
    return str(folder)


@pytest.fixture(scope="module")
def expected(checkpoint):
    return answers_of_one(checkpoint)
