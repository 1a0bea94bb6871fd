"""openai-agents over chat completions and responses: a loop of calls that ends."""

from collections.abc import AsyncIterator

import openai
import pytest

from tests.support.ingresses import MODEL
from tests.support.one_call import prompt_text


@pytest.fixture(params=["chat", "responses"])
async def agent(url, request) -> AsyncIterator:
    agents = pytest.importorskip("agents", reason="openai-agents is not installed")

    def weather(city: str) -> str:
        """Tell the weather of a city."""
        return f"sunny in {city}"

    speaks = {"chat": agents.OpenAIChatCompletionsModel, "responses": agents.OpenAIResponsesModel}
    async with openai.AsyncOpenAI(base_url=url, api_key="key", max_retries=0) as client:
        yield agents.Agent(
            name="Guide",
            instructions="Be brief.",
            model=speaks[request.param](model=MODEL, openai_client=client),
            tools=[agents.function_tool(weather, strict_mode=False)],
        )


def check_requests(source):
    first, second = map(prompt_text, source.requests)
    assert "Be brief." in first
    assert "city: string" in first
    # The reasoning before the call comes back, the call and its result too.
    order = ["Weather in Bern?", "Look it up.", '{"city":"Bern"}', "sunny in Bern"]
    positions = [second.index(text) for text in order]
    assert positions == sorted(positions)


async def test_an_agent_calls_its_tool_once_and_comes_to_an_end(agent, source):
    from agents import Runner

    result = await Runner.run(agent, "Weather in Bern?", max_turns=3)
    assert result.final_output == "It is 42."
    check_requests(source)


async def test_a_streamed_agent_does_the_same(agent, source):
    from agents import Runner

    result = Runner.run_streamed(agent, "Weather in Bern?", max_turns=3)
    kinds = {
        event.item.type async for event in result.stream_events() if event.type == "run_item_stream_event"
    }
    assert result.final_output == "It is 42."
    assert {"tool_call_item", "tool_call_output_item", "message_output_item"} <= kinds
    check_requests(source)


async def test_the_tokens_that_were_used_are_counted(agent):
    from agents import Runner

    usage = (await Runner.run(agent, "Weather in Bern?", max_turns=3)).context_wrapper.usage
    assert usage.requests == 2
    assert usage.output_tokens_details.reasoning_tokens > 0
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
