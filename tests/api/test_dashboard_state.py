"""What the dashboard is fed with."""

from __future__ import annotations

from dataclasses import replace

from gptoss_ray.errors import UnavailableError
from tests.support.group_stats import NOW, healed_group
from tests.support.ingresses import ANSWER, MODEL, http_client, make_ingress, tokens
from tests.support.scripted_source import ScriptedSource

BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


async def state(source: ScriptedSource, *bodies: dict[str, object]) -> dict:
    async with http_client(make_ingress(source)) as client:
        for body in bodies:
            await client.post("/v1/chat/completions", json=body)
        answer = (await client.get("/dashboard/state")).raise_for_status().json()
    (model,) = answer["models"]
    return model


async def test_ranks_experts_and_events_are_told_as_the_replica_does():
    model = await state(ScriptedSource([], group_stats=[healed_group()]))
    (replica,) = model["replicas"]
    assert (replica["stage"], replica["epoch"], replica["members"]) == ("serving", 3, ["0", "1.1"])
    assert (replica["queued"], replica["queued_tokens"], replica["healing_s"]) == (4, 900, 0.75)
    assert replica["expert_load"] == [[11, 22, 33, 44], [55, 66, 77, 88]]
    assert [(rank["rank"], rank["host"]) for rank in replica["ranks"]] == [(0, "10.0.0.1"), (1, "10.0.0.2")]
    load = replica["ranks"][1]["load"]
    assert (load["running"], load["waiting"], load["kv_usage"], load["kv_blocks"]) == (4, 1, 0.75, 100)
    assert (load["step_s"], load["all_to_all_s"], load["expert_rows"]) == (6.0, 1.5, 4001)
    assert replica["events"][0] == {"time": NOW, "kind": "rank_lost", "epoch": 1, "detail": "rank 1"}


async def test_a_rank_that_does_not_answer_is_there_without_a_load():
    group = healed_group()
    silent = replace(group, ranks=group.ranks[:1], stage="preparing")
    (replica,) = (await state(ScriptedSource([], group_stats=[silent])))["replicas"]
    assert [rank["load"] is None for rank in replica["ranks"]] == [False, True]
    assert replica["expert_load"] == [[1, 2, 3, 4], [5, 6, 7, 8]]


async def test_what_the_ingress_measured_is_told_of_each_model():
    played = iter([tokens(ANSWER), [UnavailableError("gone.")]])
    model = await state(ScriptedSource(lambda request: next(played)), BODY, BODY)
    assert (model["choices"], model["failures"], model["migrations"], model["in_progress"]) == (1, 1, 0, 0)
    assert model["replicas"] == []


async def test_it_needs_a_key_where_the_page_does_not():
    async with http_client(make_ingress([], api_keys=["key"])) as client:
        assert (await client.get("/dashboard")).status_code == 200
        assert (await client.get("/dashboard/state")).status_code == 401
        allowed = await client.get("/dashboard/state", headers={"authorization": "Bearer key"})
        assert allowed.status_code == 200
