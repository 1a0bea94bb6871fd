"""Responses that are kept: read, gone on from, listed, deleted, each by its own tenant alone."""

import pytest

from gptoss_ray.config import LimitsConfig
from gptoss_ray.errors import UnavailableError
from gptoss_ray.serving.responses.shared_store import LocalStore, bounded_store
from tests.support.ingresses import ANSWER, CALL, http_client, make_ingress, tokens
from tests.support.one_call import call_once, prompt_text
from tests.support.responses import URL, WEATHER, body, create, stream, texts
from tests.support.scripted_source import ScriptedSource


class LostStore:
    """Nothing about it works."""

    def __getattr__(self, name):
        async def fail(*_):
            raise UnavailableError("The store of responses cannot be reached now; try again.")

        return fail


def asks(key):
    return {"authorization": f"Bearer {key}"}


async def test_a_response_is_kept_as_it_was_answered_whole_and_streamed():
    async with http_client(make_ingress(tokens(CALL))) as http:
        whole = await create(http, tools=[WEATHER], metadata={"a": "b"})
        events = await stream(http, tools=[WEATHER])
        for response in (whole, events[-1]["response"]):
            kept = await http.get(f"{URL}/{response['id']}")
            assert kept.status_code == 200
            assert kept.json() == response


async def test_a_response_can_be_gone_on_from_as_soon_as_its_last_event_is_read():
    source = ScriptedSource(call_once)
    async with http_client(make_ingress(source)) as http:
        first = (await stream(http, input="Weather?", tools=[WEATHER]))[-1]["response"]
        output = {
            "type": "function_call_output",
            "call_id": first["output"][-1]["call_id"],
            "output": "sunny",
        }
        second = await create(http, input=[output], tools=[WEATHER], previous_response_id=first["id"])
        third = await create(http, input="Thanks.", previous_response_id=second["id"], instructions="New.")
    assert texts(second)[-1] == ("final_answer", "It is 42.")
    assert f"<|start|>user<|message|>Weather?<|end|><|start|>assistant{CALL}" in prompt_text(
        source.requests[1]
    )
    # Reasoning of a finished turn is dropped, its calls are not.
    prompt = prompt_text(source.requests[2])
    assert "Look it up." not in prompt
    order = ["New.", "Weather?", "One moment.", '{"city":"Bern"}', "sunny", "It is 42.", "Thanks."]
    assert [prompt.index(text) for text in order] == sorted(prompt.index(text) for text in order)
    assert third["previous_response_id"] == second["id"]


async def test_instructions_are_not_carried_over():
    source = ScriptedSource(tokens(ANSWER))
    async with http_client(make_ingress(source)) as http:
        first = await create(http, instructions="Old.")
        await create(http, previous_response_id=first["id"])
    assert "Old." not in prompt_text(source.requests[1])


async def test_items_are_referred_to_by_their_ids():
    source = ScriptedSource(call_once)
    async with http_client(make_ingress(source)) as http:
        first = await create(http, input="Weather?", tools=[WEATHER])
        listed = (await http.get(f"{URL}/{first['id']}/input_items")).json()["data"]
        items = [{"type": "item_reference", "id": item["id"]} for item in (*listed, *first["output"])]
        output = {
            "type": "function_call_output",
            "call_id": first["output"][-1]["call_id"],
            "output": "sunny",
        }
        await create(http, input=[*items, output], tools=[WEATHER])
    prompt = prompt_text(source.requests[1])
    assert f"<|start|>user<|message|>Weather?<|end|><|start|>assistant{CALL}" in prompt


async def test_a_response_that_is_not_to_be_stored_is_not():
    async with http_client(make_ingress(tokens(ANSWER))) as http:
        response = await create(http, store=False)
        assert response["store"] is False
        assert (await http.get(f"{URL}/{response['id']}")).status_code == 404
        after = await http.post(URL, json=body(previous_response_id=response["id"]))
    assert after.status_code == 404
    assert after.json()["error"]["param"] == "previous_response_id"
    assert after.json()["error"]["code"] == "previous_response_not_found"


async def test_a_deleted_response_is_gone_and_so_is_what_went_on_from_it():
    async with http_client(make_ingress(tokens(ANSWER))) as http:
        first = await create(http)
        second = await create(http, previous_response_id=first["id"])
        deleted = await http.delete(f"{URL}/{first['id']}")
        assert deleted.json() == {"id": first["id"], "object": "response", "deleted": True}
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")):
            assert (await http.request(method, f"{URL}/{first['id']}{path}")).status_code == 404
        assert (await http.get(f"{URL}/{second['id']}")).status_code == 200
        third = await http.post(URL, json=body(previous_response_id=second["id"]))
    assert third.status_code == 404
    assert first["id"] in third.json()["error"]["message"]


async def test_a_response_of_another_key_is_unknown():
    ingress = make_ingress(tokens(ANSWER), api_keys=["a", "b"])
    async with http_client(ingress) as http:
        created = (await http.post(URL, json=body(), headers=asks("a"))).json()
        path = f"{URL}/{created['id']}"
        message = created["output"][-1]["id"]
        for method, url in (
            ("GET", path),
            ("GET", f"{path}?stream=true"),
            ("DELETE", path),
            ("POST", f"{path}/cancel"),
            ("GET", f"{path}/input_items"),
        ):
            assert (await http.request(method, url, headers=asks("b"))).status_code == 404
        for fields in (
            {"previous_response_id": created["id"]},
            {"input": [{"type": "item_reference", "id": message}]},
        ):
            assert (await http.post(URL, json=body() | fields, headers=asks("b"))).status_code == 404
        assert (await http.get(path, headers=asks("a"))).json() == created


async def test_input_items_come_in_pages():
    items = [{"role": "user", "content": str(number)} for number in range(5)]
    async with http_client(make_ingress(tokens(ANSWER))) as http:
        created = await create(http, input=items)

        async def page(**params):
            response = await http.get(f"{URL}/{created['id']}/input_items", params=params)
            assert response.status_code == 200, response.text
            listed = response.json()
            ids = [item["id"] for item in listed["data"]]
            assert (listed["first_id"], listed["last_id"]) == (ids[0], ids[-1]) if ids else (None, None)
            return "".join(item["content"][0]["text"] for item in listed["data"]), listed

        assert (await page())[0] == "43210"
        text, first = await page(limit=2, order="asc")
        assert (text, first["has_more"]) == ("01", True)
        text, second = await page(limit=3, order="asc", after=first["last_id"])
        assert (text, second["has_more"]) == ("234", False)
        assert (await page(order="asc", before=second["first_id"]))[0] == "01"
        assert (await page(after=second["last_id"]))[0] == "3210"
        for wrong in ({"limit": 0}, {"limit": 101}, {"limit": "x"}, {"order": "up"}, {"after": "msg_1"}):
            response = await http.get(f"{URL}/{created['id']}/input_items", params=wrong)
            assert response.status_code == 400
            assert response.json()["error"]["param"] == next(iter(wrong))


async def test_a_conversation_may_have_only_so_many_items():
    ingress = make_ingress(tokens(ANSWER), limits=LimitsConfig(max_messages=4))
    async with http_client(ingress) as http:
        first = await create(http)
        second = await create(http, previous_response_id=first["id"])
        third = await http.post(URL, json=body(previous_response_id=second["id"]))
    assert third.status_code == 400
    assert third.json()["error"]["param"] == "previous_response_id"


@pytest.mark.parametrize(
    "limit", ["max_stored_responses", "max_stored_response_bytes", "max_stored_response_age_s"]
)
async def test_a_limit_of_0_keeps_nothing_and_says_so(limit):
    async with http_client(make_ingress(tokens(ANSWER), limits=LimitsConfig(**{limit: 0}))) as http:
        response = await create(http)
        assert response["store"] is False
        assert (await http.get(f"{URL}/{response['id']}")).status_code == 404
        background = await http.post(URL, json=body(background=True))
    assert background.status_code == 400
    assert background.json()["error"]["param"] == "background"


async def test_a_response_larger_than_the_store_says_that_it_is_not_kept():
    async with http_client(
        make_ingress(tokens(ANSWER), limits=LimitsConfig(max_stored_response_bytes=99))
    ) as http:
        events = await stream(http)
    assert events[0]["response"]["store"] is True
    assert events[-1]["response"]["store"] is False


async def test_a_lost_store_takes_no_answer_away_and_is_a_503_to_those_who_need_it():
    async with http_client(make_ingress(tokens(ANSWER), store=LostStore())) as http:
        response = await create(http)
        assert response["store"] is False
        assert (await stream(http))[-1]["response"]["store"] is False
        for method, path in (("GET", ""), ("GET", "?stream=true"), ("DELETE", ""), ("POST", "/cancel")):
            assert (await http.request(method, f"{URL}/resp_1{path}")).status_code == 503
        for fields in ({"previous_response_id": "resp_1"}, {"background": True}):
            lost = await http.post(URL, json=body(**fields))
            assert lost.status_code == 503
            assert lost.json()["error"]["code"] == "unavailable"


async def test_ingresses_with_one_store_know_each_others_responses():
    store = LocalStore(bounded_store(LimitsConfig()))
    source = ScriptedSource(tokens(ANSWER))
    async with (
        http_client(make_ingress(tokens(ANSWER), store=store)) as one,
        http_client(make_ingress(source, store=store)) as other,
    ):
        first = await create(one)
        assert (await other.get(f"{URL}/{first['id']}")).json() == first
        await create(other, previous_response_id=first["id"])
    assert "It is 42." in prompt_text(source.requests[0])
