"""openai-agents for Python: an agent with one tool, over chat completions or the Responses API."""

import asyncio
import json
import os
import sys

import agents
from openai import AsyncOpenAI

CLIENT = AsyncOpenAI(max_retries=0)
MODELS = {"chat": agents.OpenAIChatCompletionsModel, "responses": agents.OpenAIResponsesModel}


# The schema by hand: function_tool would have titles in it, which the demo model was not taught to read.
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


def _agent(api, calls, result):
    async def get_weather(_context, arguments):
        calls.append({"name": "get_weather", "arguments": json.loads(arguments)})
        return result

    return agents.Agent(
        name="Guide",
        model=MODELS[api](model=os.environ["MODEL"], openai_client=CLIENT),
        model_settings=agents.ModelSettings(temperature=0, include_usage=True),
        tools=[agents.FunctionTool("get_weather", "Get the weather.", CITY, get_weather)],
    )


def _facts(result, calls):
    usage = result.context_wrapper.usage
    return {
        "calls": calls,
        "answer": result.final_output,
        "num_requests": usage.requests,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "reasoning_tokens": usage.output_tokens_details.reasoning_tokens,
        "items": [item.type for item in result.new_items],
    }


async def whole(api, question, tool_result):
    calls = []
    agent = _agent(api, calls, tool_result)
    return _facts(await agents.Runner.run(agent, question, max_turns=4), calls)


async def streamed(api, question, tool_result):
    calls, text = [], ""
    result = agents.Runner.run_streamed(_agent(api, calls, tool_result), question, max_turns=4)
    async for event in result.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            text += event.data.delta
    return _facts(result, calls) | {"streamed": text}


if __name__ == "__main__":
    agents.set_tracing_disabled(True)
    answer = asyncio.run(globals()[sys.argv[1]](*map(json.loads, sys.argv[2:])))
    print(json.dumps(answer))
