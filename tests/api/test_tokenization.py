import pytest

from gptoss_ray.serving import tokenization
from tests.support.ingresses import ANSWER, MAX_CONTEXT, MODEL, encoding, http_client, make_ingress, tokens
from tests.support.scripted_source import ScriptedSource

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi <|end|>"}]
TOOLS = [{"type": "function", "function": {"name": "weather"}}]
MARKUP = "<|start|>user<|message|>hi \N{SNOWMAN}<|end|>"


async def post(path, source=None, **body):
    async with http_client(make_ingress(source or ScriptedSource([]))) as client:
        return await client.post(path, json=body)


async def test_a_text_becomes_the_tokens_that_a_completion_would_read():
    source = ScriptedSource(tokens("a<|return|>"))
    tokenized = (await post("/tokenize", prompt=MARKUP, add_special_tokens=False)).json()
    await post("/v1/completions", source, model=MODEL, prompt=MARKUP)
    assert tokenized["tokens"] == list(source.requests[0].prompt_token_ids)
    assert tokenized["count"] == len(tokenized["tokens"])
    assert tokenized["max_model_len"] == MAX_CONTEXT
    assert "token_strs" not in tokenized


async def test_a_chat_becomes_the_tokens_that_its_answer_goes_on_from():
    fields = {"model": MODEL, "messages": MESSAGES, "tools": TOOLS, "reasoning_effort": "low"}
    source = ScriptedSource(tokens(ANSWER))
    await post("/v1/chat/completions", source, **fields)
    token_ids = (await post("/tokenize", **fields)).json()["tokens"]
    assert token_ids == list(source.requests[0].prompt_token_ids)
    closed = (await post("/tokenize", add_generation_prompt=False, **fields)).json()["tokens"]
    assert token_ids == [*closed, *encoding().encode_with_special("<|start|>assistant")]


async def test_tokens_become_the_text_that_they_were():
    tokenized = (await post("/tokenize", prompt=MARKUP, return_token_strs=True)).json()
    assert len(tokenized["token_strs"]) == tokenized["count"]
    assert tokenized["token_strs"][0] == "<|start|>"
    assert (await post("/detokenize", tokens=tokenized["tokens"])).json() == {"prompt": MARKUP}
    assert (await post("/detokenize", tokens=[])).json() == {"prompt": ""}


async def test_a_harness_learns_the_names_of_the_control_tokens():
    async with http_client(make_ingress([])) as client:
        info = (await client.get("/tokenizer_info")).json()
    assert info["eos_token"] == "<|return|>"
    assert {"tokenizer_class", "bos_token", "pad_token"} <= info.keys()


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": MESSAGES}, "prompt"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"prompt": " " * 1_000_000}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": [{"role": "tool"}]}, "messages[0].tool_call_id"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": [encoding().vocab_size]}, "tokens"),
    ],
)
async def test_what_cannot_be_turned_is_a_400_that_names_the_field(path, body, param):
    response = await post(path, **body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_more_tokens_than_a_request_may_have_are_not_told(monkeypatch):
    count = (await post("/tokenize", prompt=MARKUP)).json()["count"]
    monkeypatch.setattr(tokenization, "MAX_PROMPT_IDS", count)
    assert (await post("/tokenize", prompt=MARKUP)).status_code == 200
    monkeypatch.setattr(tokenization, "MAX_PROMPT_IDS", count - 1)
    error = (await post("/tokenize", prompt=MARKUP)).json()["error"]
    assert (error["param"], f"at most {count - 1}" in error["message"]) == ("prompt", True)
    monkeypatch.setattr(tokenization, "MAX_PROMPT_IDS", 9)
    assert (await post("/tokenize", messages=MESSAGES)).json()["error"]["param"] == "messages"


async def test_an_unknown_model_is_a_404_and_none_is_the_first():
    assert (await post("/tokenize", model="gpt-9", prompt="a")).status_code == 404
    assert (await post("/tokenize", model=MODEL, prompt="a")).json() == (
        await post("/tokenize", prompt="a")
    ).json()
