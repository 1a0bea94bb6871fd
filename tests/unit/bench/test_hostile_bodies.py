from __future__ import annotations

import pytest

from gptoss_ray.bench.hostile_bodies import HOSTILE_TEXTS, hostile_bodies
from gptoss_ray.bench.ingress_report import ALLOWED_STATUSES
from tests.support.ingresses import ANSWER, MODEL, http_client, make_ingress, tokens


@pytest.mark.parametrize("name", HOSTILE_TEXTS)
async def test_a_hostile_body_is_answered_or_refused(name):
    bodies = hostile_bodies(HOSTILE_TEXTS[name], MODEL)
    assert len(bodies) == 2
    async with http_client(make_ingress(tokens(ANSWER))) as client:
        for path, body in bodies.items():
            assert (await client.post(path, content=body)).status_code in ALLOWED_STATUSES


async def test_the_same_body_with_an_ordinary_text_is_answered():
    async with http_client(make_ingress(tokens(ANSWER))) as client:
        for path, body in hostile_bodies(b'"hi"', MODEL).items():
            assert (await client.post(path, content=body)).status_code == 200
