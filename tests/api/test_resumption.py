"""A stream that breaks anywhere goes on with nothing repeated and nothing missing."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from gptoss_ray.errors import InvalidRequestError
from gptoss_ray.serving.answer import Usage
from gptoss_ray.serving.chat import fold_chat
from gptoss_ray.serving.chat_assembler import ChatDelta
from gptoss_ray.serving.completions import fold_completion
from gptoss_ray.serving.openai_types import ChatCompletionRequest, CompletionRequest
from tests.support.ingresses import ALIAS, CALL, MODEL, encoding, make_ingress, tokens
from tests.support.scripted_source import ScriptedSource

LONG = (
    "<|channel|>analysis<|message|>Think: é 🎈 abcab.<|end|>"
    "<|start|>assistant<|channel|>final<|message|>One abcabc two 🎈🎈 abcabd three.<|return|>"
)
CHATS = {
    "an answer": (LONG, {}),
    "a call": (CALL, {"tools": [{"type": "function", "function": {"name": "weather"}}]}),
    "a stop string that nearly comes": (LONG, {"stop": ["abcabd", "bcx"], "max_tokens": 90}),
    "log probabilities": (LONG, {"logprobs": True, "top_logprobs": 2}),
    "log probabilities beside stop strings": (LONG, {"logprobs": True, "stop": ["abcabd", "🎈🎈 ab"]}),
    "a malformed header": (
        "<|channel|>final and a lot of words that are no header<|message|>Hi abc.<|return|>",
        {"logprobs": True, "stop": ["abcd"]},
    ),
    "a cut answer": (LONG, {"max_tokens": 11}),
    "several choices": (LONG, {"n": 3, "logprobs": True}),
    "an end that is ignored": (LONG + "<|start|>assistant more", {"ignore_eos": True, "max_tokens": 60}),
}
COMPLETIONS = {
    "text": ("Once upon 🎈 a time.<|return|>", {}),
    "stop strings and log probabilities": ("One abcabc two 🎈🎈 abcabd x", {"logprobs": 1, "stop": "abcabd"}),
    "an echo": ("One 🎈 two", {"echo": True, "logprobs": 1, "prompt": ["Tell 🎈:", "And:"]}),
    "several": ("One 🎈 two", {"n": 2, "prompt": ["a", "b"]}),
}


def chat(fields, **more):
    messages = [{"role": "user", "content": "Hi"}]
    return ChatCompletionRequest.model_validate(
        {"model": MODEL, "messages": messages, "stream": True, "resumable": True, **fields, **more}
    )


def completion(fields, **more):
    return CompletionRequest.model_validate(
        {
            "model": MODEL,
            "prompt": ["Tell:"],
            "max_tokens": 40,
            "stream": True,
            "resumable": True,
            **fields,
            **more,
        }
    )


async def start(ingress, request):
    begin = ingress.chat if isinstance(request, ChatCompletionRequest) else ingress.complete
    return await begin(request, tenant="")


async def events_of(answer):
    async with aclosing(answer.events) as events:
        return [event async for event in events]


class Reader:
    """Keeps a client's half of the contract: pieces count once one with tokens, or an end, has come."""

    def __init__(self):
        self.deltas = []
        self.fixed = None
        self._held = {}
        self._choices = {}

    def take(self, answer, events):
        self.fixed = answer.resumption.model_dump()
        self._held = {}
        for event in events:
            self._held.setdefault(event.index, []).append(event)
            if event.token_ids or event.finish_reason:
                self.deltas += self._held.pop(event.index)
                choice = self._choices.setdefault(
                    event.index, {"index": event.index, "token_ids": [], "has_ended": False}
                )
                choice["token_ids"] += event.token_ids
                choice["has_ended"] = event.finish_reason is not None

    @property
    def resumption(self):
        return {**self.fixed, "choices": list(self._choices.values())}


async def folded(deltas, usage):
    async def replay():
        for delta in deltas:
            yield delta
        yield usage

    fold = fold_chat if isinstance(deltas[0], ChatDelta) else fold_completion
    return await fold(replay())


async def check_every_break(ingress, make, *, breaks=None):
    request = make()
    answer = await start(ingress, request)
    *whole, usage = await events_of(answer)
    expected = await folded(whole, usage)
    fixed = answer.resumption
    for k in breaks or range(len(whole) + 1):
        reader = Reader()
        reader.take(answer, whole[:k])
        again = await start(ingress, make(resumption=reader.resumption))
        *rest, usage_again = await events_of(again)
        assert again.id == answer.id
        assert again.resumption == fixed
        reader.take(again, rest)
        choices, usage_of_all = await folded(reader.deltas, usage_again)
        assert (choices, usage_of_all.completion_tokens) == (expected[0], usage.completion_tokens), k
        assert usage_again.reasoning_tokens == usage.reasoning_tokens
        assert usage_again.prompt_tokens == usage.prompt_tokens
        assert isinstance(usage_again, Usage)


@pytest.mark.parametrize("case", CHATS)
async def test_a_chat_goes_on_behind_any_piece(case):
    script, fields = CHATS[case]
    await check_every_break(make_ingress(tokens(script)), lambda **more: chat(fields, **more))


@pytest.mark.parametrize("case", COMPLETIONS)
async def test_a_completion_goes_on_behind_any_piece(case):
    script, fields = COMPLETIONS[case]
    await check_every_break(make_ingress(tokens(script)), lambda **more: completion(fields, **more))


async def test_steps_of_several_tokens_go_on_too():
    ids = [token_id for (token_id,) in tokens(LONG)]
    steps = [tuple(ids[start : start + 5]) for start in range(0, len(ids), 5)]
    for fields in ({}, {"logprobs": True, "stop": ["abcabd"]}):
        await check_every_break(make_ingress(steps), lambda fields=fields, **more: chat(fields, **more))


async def test_a_resumed_request_has_the_prompt_the_seed_and_the_tokens_of_the_broken_one():
    source = ScriptedSource(tokens(LONG))
    ingress = make_ingress(source)
    answer = await start(ingress, chat({}))
    reader = Reader()
    reader.take(answer, (await events_of(answer))[:5])
    await events_of(await start(ingress, chat({}, resumption=reader.resumption)))
    broken, resumed = source.requests
    assert resumed.request_id != broken.request_id
    assert (resumed.prompt_token_ids, resumed.params) == (broken.prompt_token_ids, broken.params)
    assert resumed.emitted_token_ids == tuple(reader.resumption["choices"][0]["token_ids"])
    assert 0 < len(resumed.emitted_token_ids) < len(tokens(LONG))


async def test_recalled_reasoning_comes_back_at_a_replica_that_never_had_it():
    first = make_ingress(source := ScriptedSource(tokens(CALL)))
    tool = {"type": "function", "function": {"name": "weather"}}
    called = await start(first, chat({}, tools=[tool]))
    (choice,), _ = await fold_chat(_replayed(await events_of(called)))
    (call,) = choice.tool_calls
    turn = {
        "tools": [tool],
        "messages": [
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "tool_calls": [{"id": call.id, "function": {"name": "weather", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
        ],
    }
    answer = await start(first, chat(turn))
    assert answer.resumption.recalled_reasoning == {call.id: "Look it up."}
    reader = Reader()
    reader.take(answer, (await events_of(answer))[:3])
    second = make_ingress(other := ScriptedSource(tokens(CALL)))
    await events_of(await start(second, chat(turn, resumption=reader.resumption)))
    assert other.requests[0].prompt_token_ids == source.requests[-1].prompt_token_ids


async def _replayed(events):
    for event in events:
        yield event


async def test_equal_prompts_without_a_seed_have_seeds_of_their_own_and_keep_them():
    source = ScriptedSource(tokens("abc"))
    ingress = make_ingress(source)
    fields = {"prompt": ["same", "same"]}
    answer = await start(ingress, completion(fields))
    await events_of(answer)
    await events_of(await start(ingress, completion(fields, resumption=answer.resumption.model_dump())))
    seeds = [request.params.seed for request in source.requests]
    assert seeds[0] != seeds[1]
    assert seeds[:2] == seeds[2:]
    await events_of(await start(ingress, completion({**fields, "seed": 5})))
    assert [request.params.seed for request in source.requests[4:]] == [5, 5]


FIXED = {"id": "chatcmpl-1", "created": 1_750_000_000, "seed": 1}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"resumption": FIXED, "stream": False}, "resumption"),
        ({"resumption": FIXED | {"choices": [{"index": 1, "token_ids": []}]}}, "resumption.choices"),
        ({"resumption": FIXED | {"choices": [{"index": 0, "token_ids": []}] * 2}}, "resumption.choices"),
        (
            {"resumption": FIXED | {"choices": [{"index": 0, "token_ids": [99_999]}]}},
            "resumption.choices[0].token_ids",
        ),
        (
            {"resumption": FIXED | {"choices": [{"index": 0, "token_ids": [5] * 9}]}, "max_tokens": 8},
            "resumption.choices[0].token_ids",
        ),
    ],
)
async def test_what_cannot_be_of_the_request_is_refused_before_anything_runs(fields, param):
    source = ScriptedSource(tokens(LONG))
    with pytest.raises(InvalidRequestError) as caught:
        await start(make_ingress(source), chat({}, **fields))
    assert caught.value.param == param
    assert source.requests == []


async def test_other_tokens_than_the_server_draws_are_refused_where_they_are_drawn_again():
    ids = encoding().encode_with_special("<|channel|>final<|message|>One abcabX")
    resumption = FIXED | {"choices": [{"index": 0, "token_ids": ids}]}
    script = "<|channel|>final<|message|>One abcabc two.<|return|>"
    fields = {"stop": ["abXd"], "logprobs": True, "resumption": resumption, "model": ALIAS}
    answer = await start(make_ingress(tokens(script)), chat({}, **fields))
    with pytest.raises(InvalidRequestError, match="not those that this server draws"):
        await events_of(answer)
