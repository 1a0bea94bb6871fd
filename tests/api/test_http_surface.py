import pytest

from tests.support.ingresses import ALIAS, ANSWER, MAX_CONTEXT, MODEL, NOW, http_client, make_ingress, tokens
from tests.support.scripted_source import ScriptedSource

CHAT = "/v1/chat/completions"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
KEYS = ("key-one", "key-two")
EVERY_PATH = [
    ("POST", CHAT),
    ("POST", "/v1/completions"),
    ("GET", "/v1/models"),
    ("GET", f"/v1/models/{MODEL}"),
    ("GET", "/version"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/metrics"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("GET", "/tokenizer_info"),
    ("GET", "/no/such/route"),
    ("OPTIONS", CHAT),
    ("GET", "/health/"),
    ("GET", "//health"),
]


def keyed(source=None):
    return make_ingress(source or ScriptedSource(tokens(ANSWER)), api_keys=KEYS)


async def test_the_models_and_their_aliases_are_listed():
    async with http_client(make_ingress([])) as client:
        listed = (await client.get("/v1/models")).json()
        found = (await client.get(f"/v1/models/{MODEL}")).json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == [MODEL, ALIAS]
    assert found == listed["data"][0]
    assert found == {
        "id": MODEL,
        "object": "model",
        "created": NOW,
        "owned_by": "gptoss_ray",
        "root": MODEL,
        "parent": None,
        "max_model_len": MAX_CONTEXT,
    }


async def test_health_is_that_of_the_replicas_and_live_that_of_the_process():
    source = ScriptedSource([])
    async with http_client(keyed(source)) as client:
        for is_ready, status in ((True, 200), (False, 503)):
            source.is_ready = is_ready
            assert (await client.get("/health")).status_code == status
            assert (await client.get("/ready")).status_code == status
            assert (await client.get("/ping")).status_code == status
            assert (await client.post("/ping")).status_code == status
            assert (await client.get("/live")).status_code == 200


@pytest.mark.parametrize(("method", "path"), EVERY_PATH)
async def test_no_path_but_health_opens_without_a_key(method, path):
    async with http_client(keyed()) as client:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": "wrong"}):
            # Whole addresses: of `//health` alone, httpx makes the root of a host called health.
            url = f"http://testserver{path}"
            response = await client.request(method, url, json=BODY, headers=headers)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    "headers",
    [{"authorization": "Bearer key-one"}, {"authorization": "Bearer key-two"}, {"x-api-key": "key-one"}],
)
async def test_any_of_the_keys_opens(headers):
    async with http_client(keyed()) as client:
        assert (await client.post(CHAT, json=BODY, headers=headers)).status_code == 200
        assert (await client.get("/version", headers=headers)).json()["version"]


async def test_two_keys_share_no_prefix_cache():
    source = ScriptedSource(tokens(ANSWER))
    async with http_client(keyed(source)) as client:
        for key in (*KEYS, KEYS[0]):
            await client.post(CHAT, json=BODY, headers={"authorization": f"Bearer {key}"})
    salts = [request.cache_salt for request in source.requests]
    assert salts[0] == salts[2] != salts[1]


async def test_a_request_id_is_echoed_or_made():
    async with http_client(keyed()) as client:
        assert (await client.get("/live", headers={"x-request-id": "abc-1"})).headers[
            "x-request-id"
        ] == "abc-1"
        made = {(await client.get("/live")).headers["x-request-id"] for _ in range(2)}
        refused = await client.get("/version", headers={"x-request-id": "abc-2"})
        unsafe = await client.get("/live", headers={"x-request-id": "a b" * 99})
    assert len(made) == 2
    assert refused.status_code == 401
    assert refused.headers["x-request-id"] == "abc-2"
    assert unsafe.headers["x-request-id"] != "a b" * 99
