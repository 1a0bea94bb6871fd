"""buf curl: gRPC without stubs, by reflection, over plaintext HTTP/2."""

import json

import pytest

from tests.support.chat_facts import SUM_ANSWER, chat_facts

UNAUTHENTICATED = 16
REQUEST = {
    "model": "gpt-oss-demo",
    "messages": [{"role": "ROLE_USER", "content": "17 + 25"}],
    "sampling": {"temperature": 0},
}


@pytest.fixture
def curl(client, demo):
    def run(*arguments, key=demo.api_key, method="", check=True):
        return client.run(
            *("buf", "curl", "--protocol", "grpc", "--http2-prior-knowledge", *arguments),
            *("--header", f"authorization: Bearer {key}", f"http://{demo.grpc_address}{method}"),
            check=check,
        )

    return run


def messages(text):
    """Return the JSON values that stand one behind the other."""
    values, decoder = [], json.JSONDecoder()
    while text := text.strip():
        value, end = decoder.raw_decode(text)
        values.append(value)
        text = text[end:]
    return values


def usage(demo):
    facts = chat_facts(demo, [{"role": "user", "content": "17 + 25"}])
    return {
        "promptTokens": facts["prompt_tokens"],
        "completionTokens": facts["completion_tokens"],
        "totalTokens": facts["prompt_tokens"] + facts["completion_tokens"],
        "reasoningTokens": facts["reasoning_tokens"],
    }


def test_reflection_lists_the_methods(curl):
    listed = curl("--list-methods", key="").stdout.split()
    assert {
        "gptoss.v1.ChatService/Chat",
        "gptoss.v1.ChatService/StreamChat",
        "gptoss.v1.GenerationService/Generate",
        "gptoss.v1.GenerationService/StreamGenerate",
        "gptoss.v1.ModelService/ListModels",
        "gptoss.v1.ResponsesService/StreamResponse",
        "gptoss.v1.ServerService/AbortRequest",
        "gptoss.v1.TokenizeService/Tokenize",
        "grpc.health.v1.Health/Check",
    } <= set(listed)


def test_a_unary_call_has_answer_reasoning_and_usage_of_the_server(curl, demo):
    done = curl("--data", json.dumps(REQUEST), method="/gptoss.v1.ChatService/Chat")
    (answer,) = messages(done.stdout)
    facts = chat_facts(demo, [{"role": "user", "content": "17 + 25"}])
    assert answer["choices"] == [
        {"reasoning": facts["reasoning"], "content": SUM_ANSWER, "finishReason": "FINISH_REASON_STOP"}
    ]
    answer["usage"].pop("cachedTokens", None)
    assert answer["usage"] == usage(demo)


def test_a_stream_adds_up_to_the_same(curl, demo):
    done = curl("--data", json.dumps({"chat": REQUEST}), method="/gptoss.v1.ChatService/StreamChat")
    pieces = messages(done.stdout)
    assert len(pieces) > 3
    assert "".join(piece.get("choice", {}).get("content", "") for piece in pieces) == SUM_ANSWER
    pieces[-1]["usage"].pop("cachedTokens", None)
    assert pieces[-1]["usage"] == usage(demo)


def test_a_wrong_key_is_unauthenticated(curl):
    done = curl("--data", json.dumps(REQUEST), key="wrong", method="/gptoss.v1.ChatService/Chat", check=False)
    # buf's exit code has the status in its upper bits.
    assert done.returncode == UNAUTHENTICATED << 3
    assert json.loads(done.stderr)["code"] == "unauthenticated"


def test_health_needs_no_key(curl):
    done = curl("--data", "{}", key="", method="/grpc.health.v1.Health/Check")
    assert json.loads(done.stdout) == {"status": "SERVING"}
