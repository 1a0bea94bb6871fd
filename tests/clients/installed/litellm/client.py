"""LiteLLM: each function asks the server as the provider that it is given, openai or hosted_vllm."""

import json
import os
import sys

import litellm
import openai

litellm.telemetry = False
litellm.suppress_debug_info = True


def _ask(provider, messages, **fields):
    return litellm.completion(
        model=f"{provider}/{os.environ['MODEL']}",
        messages=messages,
        api_base=os.environ["OPENAI_BASE_URL"],
        temperature=0,
        max_retries=0,
        **({"api_key": os.environ["OPENAI_API_KEY"]} | fields),
    )


def _facts(answer):
    (choice,) = answer.choices
    return {
        "content": choice.message.content,
        "reasoning": choice.message.reasoning_content,
        "finish_reason": choice.finish_reason,
        "prompt_tokens": answer.usage.prompt_tokens,
        "completion_tokens": answer.usage.completion_tokens,
        "reasoning_tokens": answer.usage.completion_tokens_details.reasoning_tokens,
    }


def whole(provider, messages):
    return _facts(_ask(provider, messages))


def streamed(provider, messages):
    chunks = list(_ask(provider, messages, stream=True, stream_options={"include_usage": True}))
    return _facts(litellm.stream_chunk_builder(chunks, messages=messages))


def tool_loop(provider, messages, tool, result):
    """Give `result` back for every call, until there is none."""
    calls = []
    while True:
        message = _ask(provider, messages, tools=[tool]).choices[0].message
        if not message.tool_calls:
            return {"calls": calls, "content": message.content}
        messages.append(message.model_dump())
        for call in message.tool_calls:
            calls.append({"name": call.function.name, "arguments": json.loads(call.function.arguments)})
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


def refusals(provider, messages):
    """Return the name of the error for each kind of mistake."""

    def refused(**fields):
        try:
            _ask(provider, **({"messages": messages} | fields))
        except openai.OpenAIError as error:
            return type(error).__name__

    long = [{"role": "user", "content": "no way " * 9999}]
    return {"key": refused(api_key="wrong"), "field": refused(top_p=9), "length": refused(messages=long)}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*map(json.loads, sys.argv[2:]))))
