import json

import pytest

from gptoss_ray.generation import TokenLogprobs
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


async def test_the_stop_string_that_was_met_is_shown_where_it_was_asked_for():
    for include, text in ((True, "Once upon a time"), (False, "Once upon ")):
        fields = {"stop": ["a time", "time,"], "include_stop_str_in_output": include}
        (choice,) = (await complete(tokens(TEXT), **fields)).json()["choices"]
        assert choice["text"] == text


async def test_an_echo_is_the_prompt_and_then_the_output():
    fields = {"echo": True, "prompt": "<|start|>user \N{SNOWMAN}", "stop": ["user", "upon"]}
    (choice,) = (await complete(tokens(TEXT), **fields)).json()["choices"]
    assert choice["text"] == "<|start|>user \N{SNOWMAN}Once "
    assert choice["logprobs"] is None
    pieces = [chunk["choices"][0]["text"] for chunk in await chunks(tokens(TEXT), **fields)]
    assert "".join(pieces) == choice["text"]


async def test_an_echo_joins_a_character_that_prompt_and_output_share():
    token_ids = encoding().encode("\N{SNOWMAN}")
    fields = {"echo": True, "prompt": token_ids[:-1], "max_tokens": 1}
    (choice,) = (await complete([token_ids[-1:]], **fields)).json()["choices"]
    assert choice["text"] == "\N{SNOWMAN}"


async def test_a_harness_reads_the_log_likelihood_of_a_continuation_from_the_echo():
    source = ScriptedSource(tokens(" c d"))
    prompt = encoding().encode("one two three four")
    fields = {"prompt": [prompt], "max_tokens": 1, "logprobs": 1, "echo": True, "temperature": 0, "seed": 1}
    (choice,) = (await complete(source, **fields)).json()["choices"]
    logprobs = choice["logprobs"]
    assert logprobs["token_logprobs"] == [None] + [-0.25] * len(prompt)
    assert logprobs["top_logprobs"][0] is None
    assert "".join(logprobs["tokens"]) == choice["text"] == "one two three four c"
    for offset, token in zip(logprobs["text_offset"], logprobs["tokens"], strict=True):
        assert choice["text"][offset:].startswith(token)
    # As lm-eval has it: is the continuation what greedy decoding would have said?
    for token, top in zip(logprobs["tokens"][2:-1], logprobs["top_logprobs"][2:-1], strict=True):
        assert token == max(top, key=top.__getitem__)
    assert source.requests[0].params.prompt_logprobs == 1


async def test_without_output_the_echo_is_the_prompt_and_its_log_probabilities_alone():
    prompt = encoding().encode("one two three four")
    scored = {"prompt": [prompt], "logprobs": 1, "echo": True}
    source = ScriptedSource(tokens(" c d"))
    answer = (await complete(source, max_tokens=0, **scored)).json()
    (choice,) = answer["choices"]
    (longer,) = (await complete(tokens(" c d"), max_tokens=1, **scored)).json()["choices"]
    assert choice["text"] == "one two three four"
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"] == {key: values[:-1] for key, values in longer["logprobs"].items()}
    assert answer["usage"]["completion_tokens"] == 0
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] == len(prompt)
    assert source.requests[0].params.max_tokens == 0
    (chunk,) = await chunks(tokens(" c d"), max_tokens=0, **scored)
    assert chunk["choices"] == [choice]


async def test_without_output_each_of_several_prompts_is_echoed():
    fields = {"prompt": ["one", "two ☃"], "echo": True, "max_tokens": 0, "n": 2}
    answer = (await complete(tokens(TEXT), **fields)).json()
    assert [choice["text"] for choice in answer["choices"]] == ["one"] * 2 + ["two ☃"] * 2
    assert all(choice["logprobs"] is None for choice in answer["choices"])


async def test_without_output_and_echo_there_is_nothing_to_answer():
    async with http_client(make_ingress(tokens(TEXT))) as client:
        response = await client.post(URL, json={"model": MODEL, "prompt": "hi", "max_tokens": 0})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "max_tokens"
    assert "echo" in response.json()["error"]["message"]


async def test_the_prompts_log_probabilities_are_computed_only_for_an_echo_that_shows_them():
    for fields in ({"logprobs": 1}, {"echo": True}):
        source = ScriptedSource(tokens(TEXT))
        await complete(source, **fields)
        assert source.requests[0].params.prompt_logprobs is None


async def test_a_tokens_own_log_probability_is_among_the_top_ones_even_if_it_is_none_of_them():
    (choice,) = (await complete(tokens("one two<|return|>"), logprobs=0)).json()["choices"]
    logprobs = choice["logprobs"]
    assert logprobs["top_logprobs"] == [{token: -0.25} for token in logprobs["tokens"]]


class Graded(ScriptedSource):
    """Later choices are more likely, by `grades`."""

    grades = (-3.0, -1.0, -2.0, -0.5)

    async def generate(self, request):
        async for output in super().generate(request):
            entry = TokenLogprobs(self.grades[request.params.choice_index])
            yield output._replace(logprobs=(entry,) * len(output.logprobs))


async def test_the_best_of_several_are_the_most_likely_ones_best_first():
    def script(request):
        return tokens(f"{request.prompt_token_ids[0]}:{request.params.choice_index}<|return|>")

    answer = (await complete(Graded(script), prompt=[[5], [7]], n=2, best_of=4)).json()
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [
        (0, "5:3"),
        (1, "5:1"),
        (2, "7:3"),
        (3, "7:1"),
    ]
    assert all(choice["logprobs"] is None for choice in answer["choices"])
    assert answer["usage"]["completion_tokens"] == 2 * 4 * len(tokens("5:0<|return|>"))


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"best_of": 1, "n": 2}, "less than n"),
        ({"best_of": 2, "stream": True}, "streamed"),
        ({"best_of": 99}, "at most 8"),
    ],
)
async def test_a_best_of_that_cannot_be_had_is_refused(fields, part):
    async with http_client(make_ingress(tokens(TEXT))) as client:
        response = await client.post(URL, json={"model": MODEL, "prompt": "hi", **fields})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "best_of"
    assert part in response.json()["error"]["message"]


async def test_every_chunk_tells_the_usage_so_far_where_it_was_asked_for():
    options = {"include_usage": True, "continuous_usage_stats": True}
    *pieces, last = await chunks(tokens("one two<|return|>"), stream_options=options)
    counts = [piece["usage"]["completion_tokens"] for piece in pieces]
    assert counts == list(range(1, len(counts) + 1))
    assert last["usage"] == pieces[-1]["usage"]


@pytest.mark.parametrize("prompt", ["", [], [[1], []]])
async def test_an_empty_prompt_is_refused(prompt):
    async with http_client(make_ingress(tokens(TEXT))) as client:
        response = await client.post(URL, json={"model": MODEL, "prompt": prompt})
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("prompt")
