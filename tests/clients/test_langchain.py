"""LangChain's ChatOpenAI and OpenAI as clients."""

import pytest
from pydantic import BaseModel

from tests.support.ingresses import CALL, FORMED, MODEL, tokens
from tests.support.one_call import prompt_text

QUESTION = "What is 17 + 25?"
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


class Weather(BaseModel):
    """Where to look for the weather."""

    city: str


@pytest.fixture
def langchain_openai():
    return pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")


@pytest.fixture
def chat(langchain_openai, url):
    return langchain_openai.ChatOpenAI(model=MODEL, base_url=url, api_key="key", max_retries=0)


def test_an_invoked_chat_answers_and_counts_its_tokens(chat):
    answer = chat.bind(logprobs=True).invoke([("system", "Be brief."), ("human", QUESTION)])
    assert answer.content == "It is 42."
    assert answer.response_metadata["finish_reason"] == "stop"
    entries = answer.response_metadata["logprobs"]["content"]
    assert "".join(entry["token"] for entry in entries) == answer.content
    assert answer.usage_metadata["output_token_details"]["reasoning"] > 0


def test_a_streamed_chat_adds_up_to_its_answer(chat):
    whole, *others = chat.stream(QUESTION, stream_usage=True)
    for chunk in others:
        whole += chunk
    assert whole.content == "It is 42."
    assert whole.response_metadata["finish_reason"] == "stop"
    assert whole.usage_metadata["total_tokens"] > 0


async def test_chats_run_side_by_side(chat):
    answers = await chat.abatch([QUESTION] * 4)
    assert [answer.content for answer in answers] == ["It is 42."] * 4
    await chat.root_async_client.close()


@pytest.mark.parametrize("streams", [False, True])
def test_a_bound_tool_is_called_and_its_result_taken(chat, source, streams):
    from langchain_core.messages import HumanMessage, ToolMessage

    model = chat.model_copy(update={"streaming": streams}).bind_tools([WEATHER])
    question = HumanMessage("Weather in Bern?")
    said = model.invoke([question])
    (call,) = said.tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "Bern"})
    answer = model.invoke([question, said, ToolMessage("sunny", tool_call_id=call["id"])])
    assert answer.content == "It is 42."
    assert not answer.tool_calls
    assert "Look it up." in prompt_text(source.requests[1])


# The openai SDK's own type of a parsed answer, which LangChain writes out when it streams.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(
    ("method", "script", "form"),
    [
        ("json_schema", FORMED, '"additionalProperties":false'),
        ("function_calling", CALL.replace("weather", "Weather"), 'to=functions.Weather"'),
        ("json_mode", FORMED, '"type":"object"'),
    ],
)
def test_an_answer_comes_as_the_type_that_was_asked_for(chat, source, method, script, form, streams):
    source.script = tokens(script)
    strict = {} if method == "json_mode" else {"strict": True}
    model = chat.with_structured_output(Weather, method=method, **strict)
    answer = list(model.stream(QUESTION))[-1] if streams else model.invoke(QUESTION)
    assert answer == Weather(city="Bern")
    assert form in source.requests[0].params.grammar


def test_a_completion_is_text_whole_and_streamed(langchain_openai, url):
    model = langchain_openai.OpenAI(model=MODEL, base_url=url, api_key="key", max_retries=0)
    whole = model.invoke("17 + 25 =")
    assert "17 and 25." in whole
    assert "".join(model.stream("17 + 25 =")) == whole
