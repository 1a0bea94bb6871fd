"""The openai SDK for Python: each function asks the server and returns what the SDK shows of it."""

import json
import os
import sys
from typing import Literal

import openai
from pydantic import BaseModel

CLIENT = openai.OpenAI(max_retries=0)
GREEDY = {"model": os.environ["MODEL"], "temperature": 0}


def _facts(message, finish_reason, usage):
    return {
        "content": message.content,
        "reasoning": message.reasoning,
        "finish_reason": finish_reason,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "reasoning_tokens": usage.completion_tokens_details.reasoning_tokens,
    }


def whole(messages):
    answer = CLIENT.chat.completions.create(messages=messages, **GREEDY)
    (choice,) = answer.choices
    return _facts(choice.message, choice.finish_reason, answer.usage)


def streamed(messages):
    reasoning = ""
    with CLIENT.chat.completions.stream(
        messages=messages, stream_options={"include_usage": True}, **GREEDY
    ) as stream:
        for event in stream:
            if event.type == "chunk" and event.chunk.choices:
                reasoning += getattr(event.chunk.choices[0].delta, "reasoning", None) or ""
        answer = stream.get_final_completion()
    (choice,) = answer.choices
    choice.message.reasoning = reasoning
    return _facts(choice.message, choice.finish_reason, answer.usage)


def logprobs(messages):
    answer = CLIENT.chat.completions.create(messages=messages, logprobs=True, **GREEDY)
    return [[entry.token, entry.logprob] for entry in answer.choices[0].logprobs.content]


def tool_loop(messages, tool, result):
    """Give `result` back for every call, until there is none."""
    calls = []
    while True:
        choice = CLIENT.chat.completions.create(messages=messages, tools=[tool], **GREEDY).choices[0]
        if choice.finish_reason != "tool_calls":
            return {"calls": calls, "content": choice.message.content}
        messages.append(choice.message)
        for call in choice.message.tool_calls:
            calls.append({"name": call.function.name, "arguments": json.loads(call.function.arguments)})
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


def streamed_call(messages, tool):
    with CLIENT.chat.completions.stream(messages=messages, tools=[tool], **GREEDY) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
    return [{"name": event.name, "arguments": json.loads(event.arguments)} for event in done]


def _response_facts(response):
    return {
        "content": response.output_text,
        "reasoning": "".join(
            part.text for item in response.output if item.type == "reasoning" for part in item.content
        ),
        "finish_reason": "stop" if response.status == "completed" else response.status,
        "prompt_tokens": response.usage.input_tokens,
        "completion_tokens": response.usage.output_tokens,
        "reasoning_tokens": response.usage.output_tokens_details.reasoning_tokens,
    }


def response(messages):
    return _response_facts(CLIENT.responses.create(input=messages, **GREEDY))


def streamed_response(messages):
    with CLIENT.responses.stream(input=messages, **GREEDY) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        facts = _response_facts(stream.get_final_response())
    return facts | {"content": text}


def response_tool_loop(messages, tool, result):
    """Give `result` back for every call, until there is none; the server keeps what was said."""
    calls, last = [], None
    tools = [{"type": "function", **tool["function"]}]
    while True:
        response = CLIENT.responses.create(input=messages, tools=tools, previous_response_id=last, **GREEDY)
        messages, last = [], response.id
        for item in response.output:
            if item.type == "function_call":
                calls.append({"name": item.name, "arguments": json.loads(item.arguments)})
                messages.append({"type": "function_call_output", "call_id": item.call_id, "output": result})
        if not messages:
            return {"calls": calls, "content": response.output_text}


def parsed_response(messages):
    return CLIENT.responses.parse(input=messages, text_format=City, **GREEDY).output_parsed.city


def stored_response(messages):
    """Return an answer, the same fetched by its id, its input, and how it is missed once deleted."""
    made = CLIENT.responses.create(input=messages, **GREEDY)
    fetched = CLIENT.responses.retrieve(made.id)
    asked = [part.text for item in CLIENT.responses.input_items.list(made.id) for part in item.content]
    CLIENT.responses.delete(made.id)
    try:
        CLIENT.responses.retrieve(made.id)
    except openai.NotFoundError as error:
        missed = error.status_code
    return {"is_same": fetched.to_dict() == made.to_dict(), "input": asked, "missed": missed}


class City(BaseModel):
    """The only answer that is allowed."""

    city: Literal["Bern"]


def parsed(messages):
    answer = CLIENT.chat.completions.parse(messages=messages, response_format=City, **GREEDY)
    return {"city": answer.choices[0].message.parsed.city, "content": answer.choices[0].message.content}


def completion(prompt):
    answer = CLIENT.completions.create(prompt=prompt, echo=True, logprobs=0, max_tokens=8, **GREEDY)
    (choice,) = answer.choices
    return {
        "text": choice.text,
        "tokens": choice.logprobs.tokens,
        "token_logprobs": choice.logprobs.token_logprobs,
    }


def models():
    return [model.id for model in CLIENT.models.list()]


def refusals(messages):
    """Return the name of the SDK's error for each kind of mistake, with its code or field."""

    def refused(client=CLIENT, **changes):
        try:
            client.chat.completions.create(**({"messages": messages} | GREEDY | changes))
        except openai.APIStatusError as error:
            return [type(error).__name__, error.code or error.param]

    return {
        "key": refused(CLIENT.with_options(api_key="wrong")),
        "model": refused(model="none"),
        "field": refused(temperature=9),
        "length": refused(messages=[{"role": "user", "content": "no way " * 9999}]),
    }


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*map(json.loads, sys.argv[2:]))))
