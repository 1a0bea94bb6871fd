"""litellm as a client, by both of its names for a server like this one."""

import pytest

from tests.support.ingresses import MODEL
from tests.support.one_call import prompt_text

MESSAGES = [{"role": "user", "content": "Weather in Bern?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
# litellm looks at every attribute of pydantic's models, the deprecated ones too.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning")
PROVIDERS = pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])


@pytest.fixture
def litellm(no_telemetry):
    package = pytest.importorskip("litellm", reason="litellm is not installed")
    package.telemetry = False
    package.suppress_debug_info = True
    return package


@pytest.fixture
def ask(litellm, url):
    def send(provider, messages=MESSAGES, **options):
        options = {"api_base": url, "api_key": "key", "max_retries": 0, **options}
        return litellm.completion(model=f"{provider}/{MODEL}", messages=messages, **options)

    return send


@PROVIDERS
def test_an_answer_has_content_reasoning_and_usage(ask, provider):
    answer = ask(provider, reasoning_effort="low", allowed_openai_params=["reasoning_effort"])
    assert answer.choices[0].message.content == "It is 42."
    assert answer.choices[0].message.reasoning_content == "17 and 25."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0


@PROVIDERS
def test_a_stream_has_them_piece_by_piece(ask, litellm, provider):
    chunks = list(ask(provider, stream=True, stream_options={"include_usage": True}))
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "17 and 25."
    whole = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    assert whole.choices[0].message.content == "It is 42."
    assert whole.usage.prompt_tokens > 0


@PROVIDERS
@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_call_and_its_result_make_a_conversation(ask, litellm, source, provider, stream):
    answer = ask(provider, tools=[WEATHER], stream=stream)
    said = (litellm.stream_chunk_builder(list(answer)) if stream else answer).choices[0]
    (call,) = said.message.tool_calls
    assert (call.function.name, call.function.arguments) == ("weather", '{"city":"Bern"}')
    assert said.finish_reason == "tool_calls"
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    history = [*MESSAGES, said.message.model_dump(), result]
    assert ask(provider, history, tools=[WEATHER]).choices[0].message.content == "It is 42."
    assert "Look it up." in prompt_text(source.requests[1])


def test_a_completion_is_text(litellm, url):
    options = {"api_base": url, "api_key": "key", "max_retries": 0, "max_tokens": 99}
    answer = litellm.text_completion(model=f"text-completion-openai/{MODEL}", prompt="17 + 25 =", **options)
    assert "17 and 25." in answer.choices[0].text


def test_errors_become_its_own(ask, litellm):
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        ask("openai", temperature=9)
    with pytest.raises(litellm.AuthenticationError):
        ask("openai", api_key="wrong")
    with pytest.raises(litellm.ContextWindowExceededError):
        ask("openai", [{"role": "user", "content": "no way " * 999}])
