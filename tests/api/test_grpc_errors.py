"""What a failed call tells programs: google.rpc's details."""

from __future__ import annotations

import re

import grpc
import pytest

from gptoss_ray.client import AsyncClient, RetryPolicy, chat_request, error_details, generate_request
from gptoss_ray.config import LimitsConfig
from gptoss_ray.errors import InvalidRequestError, OverloadedError, UnavailableError
from gptoss_ray.protos.gptoss.v1 import chat_pb2, common_pb2, generation_pb2, tokenize_pb2
from gptoss_ray.serving.grpc_fields import field_path
from gptoss_ray.serving.grpc_status import status_details
from tests.support.ingresses import ANSWER, MODEL, grpc_server, make_ingress, tokens

ONCE = RetryPolicy(max_attempts=1)
FIXED = common_pb2.Resumption(id="a", created=1, seed=1)


def sampling(**fields):
    return common_pb2.SamplingParams(**fields)


def resolve(descriptor, path):
    """Return the field that a path leads to; KeyError where the message has none such."""
    field = None
    for step in path.split("."):
        name = re.sub(r"\[\d+\]$", "", step)
        field = descriptor.fields_by_name[name]
        descriptor = field.message_type
    return field


async def details_of(call, source=(), **options):
    async with (
        grpc_server(make_ingress(list(source), **options)) as target,
        AsyncClient(target, retry=ONCE) as client,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(client)
    return error_details(caught.value)


async def drain(stream):
    return [piece async for piece in stream]


def wrong_tool_calls():
    call = chat_pb2.ToolCall(id="c", name="f", arguments_json="{}")
    return [chat_pb2.Message(role=chat_pb2.ROLE_USER, tool_calls=[call])]


WRONG_CHATS = [
    (chat_request(MODEL, []), "messages"),
    (chat_request(MODEL, [chat_pb2.Message(content="x")]), "messages[0].role"),
    (chat_request(MODEL, "x", sampling=sampling(temperature=9)), "sampling.temperature"),
    (chat_request(MODEL, "x", sampling=sampling(n=0)), "sampling.n"),
    (chat_request(MODEL, "x", sampling=sampling(top_logprobs=21)), "sampling.top_logprobs"),
    (chat_request(MODEL, "x", sampling=sampling(logit_bias={7: 200})), "sampling.logit_bias"),
    (chat_request(MODEL, "x", tools=[chat_pb2.Tool(name="a b")]), "tools[0].name"),
    (
        chat_request(MODEL, "x", tools=[chat_pb2.Tool(name="f", parameters_json="{")]),
        "tools[0].parameters_json",
    ),
    (
        chat_request(
            MODEL,
            "x",
            tools=[
                chat_pb2.Tool(name="f", parameters_json='{"properties":{"a":{"type":"what"}}}', strict=True)
            ],
        ),
        "tools[0].parameters_json",
    ),
    (chat_request(MODEL, "x", tool_choice=chat_pb2.TOOL_CHOICE_REQUIRED), "tool_choice"),
    (
        chat_request(MODEL, "x", response_format=common_pb2.ResponseFormat(regex="(")),
        "response_format.regex",
    ),
    (
        chat_request(
            MODEL, "x", response_format=common_pb2.ResponseFormat(choices=common_pb2.Choices(texts=[]))
        ),
        "response_format.choices.texts",
    ),
    (
        chat_request(MODEL, "x", response_format=common_pb2.ResponseFormat(lark="start: (")),
        "response_format.lark",
    ),
    (
        chat_request(MODEL, "x", response_format=common_pb2.ResponseFormat(unshown_schema_json="[]")),
        "response_format.unshown_schema_json",
    ),
    (
        chat_request(
            MODEL,
            "x",
            response_format=common_pb2.ResponseFormat(
                json_schema=common_pb2.JsonSchema(name="n", schema_json="{")
            ),
        ),
        "response_format.json_schema.schema_json",
    ),
]
WRONG_GENERATIONS = [
    (generation_pb2.GenerateRequest(model=MODEL), "prompt"),
    (generate_request(MODEL, [99_999]), "prompt"),
    (generate_request(MODEL, ["a", [99_999]]), "prompts.prompts[1]"),
    (generate_request(MODEL, "x", sampling=sampling(top_logprobs=6)), "sampling.top_logprobs"),
    (generate_request(MODEL, "x", best_of=99), "best_of"),
]


@pytest.mark.parametrize(("request_", "field"), WRONG_CHATS, ids=[field for _, field in WRONG_CHATS])
async def test_a_wrong_field_of_a_chat_is_a_violation_with_its_path_in_the_message(request_, field):
    details = await details_of(lambda client: client.chat(request_))
    assert (details.reason, details.retry_after_s) == ("INVALID_REQUEST", None)
    (violation,) = details.field_violations
    assert violation.field == field
    assert violation.description
    assert resolve(chat_pb2.ChatRequest.DESCRIPTOR, field) is not None
    details = await details_of(lambda client: drain(client.stream_chat(request_)))
    assert details.field_violations[0].field == f"chat.{field}"


@pytest.mark.parametrize(("request_", "field"), WRONG_GENERATIONS)
async def test_a_wrong_field_of_a_generation_is_a_violation_with_its_path(request_, field):
    details = await details_of(lambda client: client.generate(request_))
    (violation,) = details.field_violations
    assert violation.field == field
    is_oneof = field in generation_pb2.GenerateRequest.DESCRIPTOR.oneofs_by_name
    assert is_oneof or resolve(generation_pb2.GenerateRequest.DESCRIPTOR, field)
    details = await details_of(lambda client: drain(client.stream_generate(request_)))
    assert details.field_violations[0].field == f"generation.{field}"


async def test_a_wrong_resumption_is_named_in_the_stream_request_itself():
    request = chat_pb2.StreamChatRequest(chat=chat_request(MODEL, "x"), resumption=FIXED)
    request.resumption.choices.add(index=0, token_ids=[99_999])
    details = await details_of(lambda client: drain(client.stream_chat(request)))
    assert details.field_violations[0].field == "resumption.choices[0].token_ids"


async def test_a_wrong_field_of_tokens_has_its_path():
    async def detokenize(client):
        return await client.detokenize([99_999])

    details = await details_of(detokenize)
    assert details.field_violations[0].field == "token_ids"
    assert resolve(tokenize_pb2.DetokenizeRequest.DESCRIPTOR, "token_ids")


@pytest.mark.parametrize(
    ("error", "reason", "retry_after_s"),
    [
        (OverloadedError("full.", retry_after_s=2.5), "OVERLOADED", 2.5),
        (UnavailableError("x"), "UNAVAILABLE", 1),
    ],
)
async def test_what_may_succeed_later_says_when_before_and_within_a_stream(error, reason, retry_after_s):
    for source in ([error], [*tokens(ANSWER)[:9], error]):
        details = await details_of(
            lambda client: drain(client.stream_chat(chat_request(MODEL, "x"), request_id="job-9")), source
        )
        assert (details.reason, details.retry_after_s) == (reason, retry_after_s)
        assert details.request_id == "job-9"
        assert details.field_violations == ()


async def test_what_cannot_succeed_later_says_nothing_of_it():
    too_large = await details_of(
        lambda client: client.chat(chat_request(MODEL, "x" * 2000)),
        limits=LimitsConfig(max_body_bytes=1024),
    )
    unknown = await details_of(lambda client: client.get_model("other"))
    no_key = await details_of(lambda client: client.list_models(), api_keys=["k"])
    assert [each.reason for each in (too_large, unknown, no_key)] == [
        "REQUEST_TOO_LARGE",
        "MODEL_NOT_FOUND",
        "INVALID_API_KEY",
    ]
    assert all(each.retry_after_s is None and each.request_id for each in (too_large, unknown, no_key))


def test_details_fit_in_headers_however_long_the_error_is():
    error = InvalidRequestError("long " * 9999, param="logit_bias" * 999)
    assert len(status_details(error, "i" * 128, chat_pb2.ChatRequest)) < 6000


@pytest.mark.parametrize(
    ("param", "path"),
    [
        ("messages[3].tool_calls[0].function.name", "messages[3].tool_calls[0].name"),
        ("messages[3].tool_calls[0].function.arguments", "messages[3].tool_calls[0].arguments_json"),
        ("tools[2].function.parameters.properties", "tools[2].parameters_json"),
        ("tool_choice.allowed_tools", "allowed_tools"),
        ("max_tokens", "sampling.max_tokens"),
        ("model", "model"),
    ],
)
def test_names_of_http_lead_to_fields_of_messages(param, path):
    assert field_path(chat_pb2.ChatRequest.DESCRIPTOR, param) == path
    assert resolve(chat_pb2.ChatRequest.DESCRIPTOR, path)
