import json

import pytest

from tests.support.ingresses import ALIAS, MODEL, encoding, http_client, make_ingress, tokens
from tests.support.scripted_source import ScriptedSource

URL = "/v1/completions"
TEXT = "Once upon a time, \N{SNOWMAN} there was.<|return|>"


async def complete(script, **fields):
    source = script if isinstance(script, ScriptedSource) else ScriptedSource(script)
    async with http_client(make_ingress(source)) as client:
        response = await client.post(
            URL, json={"model": ALIAS, "prompt": "Tell:", "max_tokens": 99, **fields}
        )
    assert response.status_code == 200, response.text
    return response


async def chunks(script, **fields):
    events = (await complete(script, stream=True, **fields)).text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]


async def test_a_completion_is_the_text_without_the_token_that_ended_it():
    answer = (await complete(tokens(TEXT))).json()
    assert answer["object"] == "text_completion"
    assert answer["model"] == MODEL
    assert answer["choices"] == [
        {"index": 0, "text": TEXT.removesuffix("<|return|>"), "logprobs": None, "finish_reason": "stop"}
    ]
    assert answer["usage"]["completion_tokens"] == len(tokens(TEXT))


async def test_a_stream_cuts_no_character():
    pieces = [chunk["choices"][0]["text"] for chunk in await chunks(tokens(TEXT))]
    assert "".join(pieces) == TEXT.removesuffix("<|return|>")
    assert len(tokens("\N{SNOWMAN}")) > 1  # the snowman's bytes come in several tokens
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


async def test_sixteen_tokens_are_the_default():
    source = ScriptedSource(tokens("a b c d e f g h i j k l m n o p q r s t u v w"))
    answer = (await complete(source, max_tokens=None)).json()
    assert answer["usage"]["completion_tokens"] == 16
    assert answer["choices"][0]["finish_reason"] == "length"


async def test_markers_in_a_text_prompt_are_control_tokens():
    source = ScriptedSource(tokens(TEXT))
    await complete(source, prompt="<|start|>user<|message|>hi<|end|>")
    prompt = source.requests[0].prompt_token_ids
    assert prompt[0] == encoding().start
    assert prompt[-1] == encoding().end


async def test_several_prompts_and_choices_are_numbered_prompt_by_prompt():
    def script(request):
        return tokens(f"{request.prompt_token_ids[0]}:{request.params.choice_index}<|return|>")

    answer = (await complete(script, prompt=[[5, 6], [7]], n=2)).json()
    assert [(c["index"], c["text"]) for c in answer["choices"]] == [
        (0, "5:0"),
        (1, "5:1"),
        (2, "7:0"),
        (3, "7:1"),
    ]
    assert answer["usage"]["prompt_tokens"] == 3


async def test_logprobs_are_parallel_lists_that_spell_the_text():
    (choice,) = (await complete(tokens("one two<|return|>"), logprobs=2)).json()["choices"]
    logprobs = choice["logprobs"]
    assert "".join(logprobs["tokens"]) == choice["text"] == "one two"
    assert logprobs["token_logprobs"] == [-0.25] * len(logprobs["tokens"])
    assert all(len(top) == 2 for top in logprobs["top_logprobs"])
    for offset, token in zip(logprobs["text_offset"], logprobs["tokens"], strict=True):
        assert choice["text"][offset:].startswith(token)


async def test_streamed_logprobs_are_those_of_the_whole_answer():
    fields = {"logprobs": 1, "stop": ["zzz", "was!"]}
    (whole,) = (await complete(tokens(TEXT), **fields)).json()["choices"]
    pieces = [chunk["choices"][0]["logprobs"] for chunk in await chunks(tokens(TEXT), **fields)]
    for key, values in whole["logprobs"].items():
        assert [value for piece in pieces if piece for value in piece[key]] == values


async def test_a_stop_string_over_several_tokens_ends_the_text_before_it():
    source = ScriptedSource(tokens(TEXT))
    (choice,) = (await complete(source, stop=["a time"], logprobs=0)).json()["choices"]
    assert choice["text"] == "Once upon "
    assert choice["finish_reason"] == "stop"
    assert source.open_ids == set()


async def test_ignoring_the_end_goes_on_to_the_limit():
    source = ScriptedSource(tokens(TEXT + TEXT))
    answer = (await complete(source, ignore_eos=True, max_tokens=len(tokens(TEXT)) + 2)).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert "<|return|>" in answer["choices"][0]["text"]


@pytest.mark.parametrize("prompt", ["", [], [[1], []]])
async def test_an_empty_prompt_is_refused(prompt):
    async with http_client(make_ingress(tokens(TEXT))) as client:
        response = await client.post(URL, json={"model": MODEL, "prompt": prompt})
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("prompt")
