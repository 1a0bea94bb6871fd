import pickle
import threading

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gptoss_ray.client import AsyncClient, chat_request, generate_request
from gptoss_ray.config import LimitsConfig
from gptoss_ray.errors import OverloadedError, UnavailableError
from gptoss_ray.protos.gptoss.v1 import (
    chat_pb2,
    common_pb2,
    generation_pb2,
    models_pb2,
    responses_pb2,
    server_pb2,
    tokenize_pb2,
)
from gptoss_ray.serving import grpc_server_methods, grpc_service
from gptoss_ray.serving.auth import PUBLIC_RPCS
from gptoss_ray.serving.grpc_service import GRPC_SERVICER_FUNCTIONS, GrpcMethods
from gptoss_ray.serving.limits import MAX_BYTES_READ_AT_ONCE
from gptoss_ray.serving.request_fields import MAX_ITEMS, MAX_PROMPT_IDS
from tests.support.ingresses import (
    ALIAS,
    ANSWER,
    CALL,
    MAX_CONTEXT,
    MODEL,
    NOW,
    encoding,
    grpc_server,
    http_client,
    make_ingress,
    tokens,
)
from tests.support.scripted_source import ScriptedSource

SERVICES = [
    chat_pb2.DESCRIPTOR.services_by_name["ChatService"],
    generation_pb2.DESCRIPTOR.services_by_name["GenerationService"],
    models_pb2.DESCRIPTOR.services_by_name["ModelService"],
    responses_pb2.DESCRIPTOR.services_by_name["ResponsesService"],
    server_pb2.DESCRIPTOR.services_by_name["ServerService"],
    tokenize_pb2.DESCRIPTOR.services_by_name["TokenizeService"],
    health_pb2.DESCRIPTOR.services_by_name["Health"],
]
RPCS = [(service, method) for service in SERVICES for method in service.methods]


def sampling(**fields):
    return common_pb2.SamplingParams(**fields)


async def failure(source, call, **options):
    """Return code and details of a call that must fail."""
    async with grpc_server(make_ingress(source, **options)) as target, AsyncClient(target) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(client)
    return caught.value.code(), caught.value.details()


async def test_an_answer_has_reasoning_content_and_usage_as_fields():
    source = ScriptedSource(tokens(ANSWER))
    async with grpc_server(make_ingress(source)) as target, AsyncClient(target) as client:
        response = await client.chat(chat_request(ALIAS, "17 + 25?"))
    assert (response.model, response.created) == (MODEL, NOW)
    (choice,) = response.choices
    assert (choice.reasoning, choice.content) == ("17 and 25.", "It is 42.")
    assert choice.finish_reason == common_pb2.FINISH_REASON_STOP
    assert response.usage.completion_tokens == len(tokens(ANSWER))
    assert response.usage.prompt_tokens == len(source.requests[0].prompt_token_ids)
    assert response.usage.reasoning_tokens == len(tokens("17 and 25."))
    assert response.usage.cached_tokens == 3


async def test_a_streamed_chat_puts_together_to_the_whole_one():
    async with grpc_server(make_ingress(tokens(CALL))) as target, AsyncClient(target) as client:
        request = chat_request(MODEL, "Weather?", sampling=sampling(top_logprobs=1))
        whole = await client.chat(request)
        pieces = [piece async for piece in client.stream_chat(request)]
    assert [piece.HasField("usage") for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert pieces[-1].usage == whole.usage
    deltas = [piece.choice for piece in pieces[:-1]]
    (choice,) = whole.choices
    assert "".join(delta.reasoning for delta in deltas) == choice.reasoning == "Look it up."
    assert "".join(delta.content for delta in deltas) == choice.content == "One moment."
    assert [entry for delta in deltas for entry in delta.logprobs] == list(choice.logprobs)
    assert b"".join(entry.chosen.token for entry in choice.logprobs).decode() == choice.content
    calls = [delta.tool_call for delta in deltas if delta.HasField("tool_call")]
    assert calls[0].name == choice.tool_calls[0].name == "weather"
    assert (
        "".join(call.arguments_json for call in calls)
        == choice.tool_calls[0].arguments_json
        == '{"city":"Bern"}'
    )
    assert deltas[-1].finish_reason == choice.finish_reason == common_pb2.FINISH_REASON_TOOL_CALLS


async def test_a_chat_over_grpc_is_the_same_request_for_tokens_as_over_http():
    source = ScriptedSource(tokens(ANSWER))
    ingress = make_ingress(source)
    parameters = '{"type": "object", "properties": {"city": {"type": "string"}}}'
    arguments = '{"city":"Bern"}'
    call = chat_pb2.ToolCall(id="c1", name="weather", arguments_json=arguments)
    request = chat_pb2.ChatRequest(
        model=MODEL,
        messages=[
            chat_pb2.Message(role=chat_pb2.ROLE_DEVELOPER, content="Be brief."),
            chat_pb2.Message(role=chat_pb2.ROLE_USER, content="Weather?"),
            chat_pb2.Message(role=chat_pb2.ROLE_ASSISTANT, reasoning="Ask.", tool_calls=[call]),
            chat_pb2.Message(role=chat_pb2.ROLE_TOOL, tool_call_id="c1", content="sunny"),
        ],
        tools=[chat_pb2.Tool(name="weather", description="Tell it.", parameters_json=parameters)],
        reasoning_effort=chat_pb2.REASONING_EFFORT_LOW,
        sampling=sampling(
            temperature=0.7, top_p=0.9, top_k=5, min_p=0.1, presence_penalty=0.5, frequency_penalty=0.25,
            repetition_penalty=1.5, logit_bias={7: -2.5}, seed=-3, max_tokens=50, min_tokens=2, stop=["x"],
            stop_token_ids=[9], n=2, top_logprobs=3,
        ),
    )  # fmt: skip
    body = {
        "model": MODEL,
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "reasoning": "Ask.",
                "tool_calls": [{"id": "c1", "function": {"name": "weather", "arguments": arguments}}],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "weather",
                    "description": "Tell it.",
                    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
                },
            }
        ],
        "reasoning_effort": "low",
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
        "repetition_penalty": 1.5,
        "logit_bias": {"7": -2.5},
        "seed": -3,
        "max_tokens": 50,
        "min_tokens": 2,
        "stop": "x",
        "stop_token_ids": [9],
        "n": 2,
        "logprobs": True,
        "top_logprobs": 3,
    }
    async with grpc_server(ingress) as target, AsyncClient(target) as client, http_client(ingress) as http:
        await client.chat(request)
        assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
    by_grpc, by_http = source.requests[:2], source.requests[2:]
    assert [(r.prompt_token_ids, r.params) for r in by_grpc] == [
        (r.prompt_token_ids, r.params) for r in by_http
    ]
    assert by_grpc[0].params.temperature == 0.7
    assert by_grpc[0].params.logit_bias == ((7, -2.5),)


async def test_text_and_token_ids_go_in_and_out():
    source = ScriptedSource(tokens("Once upon a time.<|return|>"))
    async with grpc_server(make_ingress(source)) as target, AsyncClient(target) as client:
        options = sampling(max_tokens=50, top_logprobs=2)
        by_text = await client.generate(generate_request(MODEL, "Tell:", sampling=options))
        ids = encoding().encode("Tell:")
        by_ids = await client.generate(generate_request(MODEL, ids, sampling=options))
        pieces = [
            piece async for piece in client.stream_generate(generate_request(MODEL, ids, sampling=options))
        ]
    (choice,) = by_text.choices
    assert by_ids.choices[0] == choice
    assert choice.text == "Once upon a time."
    assert encoding().decode_bytes(choice.token_ids).decode() == "Once upon a time.<|return|>"
    assert len(choice.logprobs) == len(choice.token_ids) - 1
    deltas = [piece.choice for piece in pieces[:-1]]
    assert "".join(delta.text for delta in deltas) == choice.text
    assert [token_id for delta in deltas for token_id in delta.token_ids] == list(choice.token_ids)
    assert pieces[-1].usage == by_ids.usage


async def test_an_echo_has_the_prompt_and_its_log_probabilities():
    request = generate_request(MODEL, "Tell:", sampling=sampling(max_tokens=1, top_logprobs=1))
    request.echo = True
    async with grpc_server(make_ingress(tokens(" more"))) as target, AsyncClient(target) as client:
        (choice,) = (await client.generate(request)).choices
        pieces = [piece async for piece in client.stream_generate(request)]
    assert choice.text == "Tell: more" == "".join(piece.choice.text for piece in pieces)
    assert encoding().decode_bytes(choice.token_ids).decode() == " more"
    first, *others = choice.logprobs
    assert not first.chosen.HasField("logprob")
    assert [entry.chosen.logprob for entry in others] == [-0.25] * len(others)
    assert b"".join(entry.chosen.token for entry in choice.logprobs).decode() == choice.text


async def test_no_output_is_an_echo_alone_and_nothing_for_a_chat():
    request = generate_request(MODEL, "Tell:", sampling=sampling(max_tokens=0, top_logprobs=1))
    code, details = await failure([], lambda client: client.generate(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith("max_tokens is 0")
    request.echo = True
    async with grpc_server(make_ingress(tokens(" more"))) as target, AsyncClient(target) as client:
        response = await client.generate(request)
        pieces = [piece async for piece in client.stream_generate(request)]
    (choice,) = response.choices
    assert choice.text == b"".join(entry.chosen.token for entry in choice.logprobs).decode() == "Tell:"
    assert (list(choice.token_ids), response.usage.completion_tokens) == ([], 0)
    assert choice.finish_reason == common_pb2.FINISH_REASON_LENGTH
    assert [piece.choice for piece in pieces[:-1]] == [choice]
    code, details = await failure(
        [], lambda client: client.chat(chat_request(MODEL, "x", sampling=sampling(max_tokens=0)))
    )
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith("max_tokens")


async def test_the_best_of_several_is_drawn_and_the_stop_string_shown():
    options = sampling(max_tokens=9, stop=["b"], include_stop_str_in_output=True)
    request = generate_request(MODEL, "x", sampling=options)
    request.best_of = 3
    source = ScriptedSource(tokens("a b c"))
    async with grpc_server(make_ingress(source)) as target, AsyncClient(target) as client:
        (choice,) = (await client.generate(request)).choices
    assert choice.text == "a b"
    assert len(source.requests) == 3

    async def read(client):
        return [piece async for piece in client.stream_generate(request)]

    code, details = await failure(source, read)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "best_of" in details


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (chat_request(MODEL, []), "messages"),
        (chat_request(MODEL, [chat_pb2.Message(content="x")]), "messages[0].role"),
        (chat_request(MODEL, "x", sampling=sampling(temperature=9)), "temperature"),
        (chat_request(MODEL, "x", sampling=sampling(n=0)), "n"),
        (chat_request(MODEL, "x", tools=[chat_pb2.Tool(name="a b")]), "tools[0].function.name"),
        (
            chat_request(MODEL, "x", tools=[chat_pb2.Tool(name="f", parameters_json="{")]),
            "tools[0].parameters_json",
        ),
        (
            chat_request(MODEL, "x", tools=[chat_pb2.Tool(name="f", parameters_json="[" * 9999)]),
            "parameters_json",
        ),
        (chat_pb2.ChatRequest(model=MODEL, reasoning_effort=99), "reasoning_effort"),
    ],
)
async def test_a_wrong_chat_field_is_an_invalid_argument_that_names_it(request_, field):
    source = ScriptedSource(tokens(ANSWER))
    code, details = await failure(source, lambda client: client.chat(request_))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert field in details
    assert source.requests == []


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (generation_pb2.GenerateRequest(model=MODEL), "prompt"),
        (generate_request(MODEL, ""), "prompt"),
        (generate_request(MODEL, [99_999]), "prompt"),
        (generate_request(MODEL, "x", sampling=sampling(top_logprobs=6)), "logprobs"),
        (generate_request(MODEL, [1] * MAX_CONTEXT), "context_length_exceeded"),
    ],
)
async def test_a_wrong_generation_field_is_an_invalid_argument_that_names_it(request_, field):
    code, details = await failure([], lambda client: client.generate(request_))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert field in details


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OverloadedError("full."), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (UnavailableError("loading."), grpc.StatusCode.UNAVAILABLE),
    ],
)
async def test_a_refusal_by_the_engine_has_its_code_before_and_within_a_stream(error, code):
    async def read(client):
        return [piece async for piece in client.stream_chat(chat_request(MODEL, "x"))]

    for source in ([error], [*tokens(ANSWER)[:9], error]):
        found, details = await failure(source, read)
        assert found is code
        assert error.message in details


async def test_an_unknown_model_is_not_found():
    code, details = await failure([], lambda client: client.chat(chat_request("gpt-9", "x")))
    assert code is grpc.StatusCode.NOT_FOUND
    assert "model_not_found" in details


async def test_a_message_over_the_limit_is_refused():
    limits = LimitsConfig(max_body_bytes=1024)
    code, details = await failure(
        [], lambda client: client.chat(chat_request(MODEL, "x" * 2000)), limits=limits
    )
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "1024 bytes" in details


@pytest.mark.parametrize(
    ("param", "request_"),
    [
        ("messages", chat_pb2.ChatRequest(messages=[chat_pb2.Message()] * (MAX_ITEMS + 1))),
        ("tools", chat_pb2.ChatRequest(tools=[chat_pb2.Tool()] * (MAX_ITEMS + 1))),
        (
            "tool_calls",
            chat_pb2.ChatRequest(
                messages=[chat_pb2.Message(tool_calls=[chat_pb2.ToolCall()] * MAX_ITEMS)] * 2
            ),
        ),
        ("allowed_tools", chat_pb2.ChatRequest(allowed_tools=["f"] * (MAX_ITEMS + 1))),
        ("stop", chat_pb2.ChatRequest(sampling=sampling(stop=["a"] * (MAX_ITEMS + 1)))),
        ("stop_token_ids", chat_pb2.ChatRequest(sampling=sampling(stop_token_ids=[5] * (MAX_ITEMS + 1)))),
        (
            "logit_bias",
            chat_pb2.ChatRequest(sampling=sampling(logit_bias=dict.fromkeys(range(MAX_ITEMS + 1), 1.0))),
        ),
        (
            "response_format.choices",
            chat_pb2.ChatRequest(
                response_format=common_pb2.ResponseFormat(
                    choices=common_pb2.Choices(texts=["a"] * (MAX_ITEMS + 1))
                )
            ),
        ),
        (
            "tools[0].parameters_json",
            chat_pb2.ChatRequest(tools=[chat_pb2.Tool(parameters_json=f"[{'[],' * 70_000}[]]")]),
        ),
        ("token_ids", generate_request(MODEL, [5] * (MAX_PROMPT_IDS + 1))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_lists_that_are_far_too_long_are_refused_unread(param, request_):
    is_chat = isinstance(request_, chat_pb2.ChatRequest)
    code, details = await failure(
        [], lambda client: client.chat(request_) if is_chat else client.generate(request_)
    )
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith(param)


async def test_a_large_message_is_read_beside_the_event_loop(monkeypatch):
    threads = []
    convert = grpc_service.chat_request

    def watched(message):
        threads.append(threading.get_ident())
        return convert(message)

    monkeypatch.setattr(grpc_service, "chat_request", watched)
    async with grpc_server(make_ingress(tokens(ANSWER))) as target, AsyncClient(target) as client:
        await client.chat(chat_request(MODEL, "hi"))
        with pytest.raises(grpc.aio.AioRpcError, match="maximum context length"):
            await client.chat(chat_request(MODEL, "hi " * MAX_BYTES_READ_AT_ONCE))
    assert [thread == threading.get_ident() for thread in threads] == [True, False]


async def test_a_fault_of_the_server_is_internal_without_its_traceback(caplog):
    class Broken(ScriptedSource):
        async def generate(self, request):
            raise RuntimeError("at /secret/path")
            yield

    code, details = await failure(Broken([]), lambda client: client.chat(chat_request(MODEL, "x")))
    assert code is grpc.StatusCode.INTERNAL
    assert "secret" not in details
    assert "Traceback" not in details
    assert "/secret/path" in caplog.text


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: rpc.name if hasattr(rpc, "name") else str(rpc))
async def test_no_rpc_but_health_opens_without_a_key(rpc):
    service, method = rpc
    is_public = service.full_name == "grpc.health.v1.Health"
    assert (method.name in PUBLIC_RPCS) == is_public
    async with (
        grpc_server(make_ingress(tokens(ANSWER), api_keys=["right"])) as target,
        grpc.aio.insecure_channel(target) as channel,
    ):
        kind = channel.unary_stream if method.server_streaming else channel.unary_unary
        for metadata in ((), (("authorization", "Bearer wrong"),), (("x-api-key", "wrong"),)):
            call = kind(f"/{service.full_name}/{method.name}")(b"", metadata=metadata)
            if is_public:
                call.cancel()
                continue
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await (call.read() if method.server_streaming else call)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_the_key_opens_as_bearer_and_as_x_api_key():
    async with grpc_server(make_ingress(tokens(ANSWER), api_keys=["right"])) as target:
        async with AsyncClient(target, api_key="right") as client:
            assert (await client.chat(chat_request(MODEL, "x"))).choices[0].content == "It is 42."
        async with grpc.aio.insecure_channel(target) as channel:
            call = channel.unary_unary("/gptoss.v1.ModelService/ListModels")(
                b"", metadata=(("x-api-key", "right"),)
            )
            assert models_pb2.ListModelsResponse.FromString(await call).models[0].name == MODEL


async def test_models_are_listed_with_what_a_client_must_know():
    source = ScriptedSource([], is_ready=False)
    async with grpc_server(make_ingress(source)) as target, AsyncClient(target) as client:
        (model,) = await client.list_models()
    assert (model.name, list(model.aliases), model.max_context, model.ready) == (
        MODEL,
        [ALIAS],
        MAX_CONTEXT,
        False,
    )


async def test_health_is_that_of_the_replicas(monkeypatch):
    monkeypatch.setattr(grpc_server_methods, "HEALTH_POLL_S", 0.01)
    source = ScriptedSource([], is_ready=False)
    status = health_pb2.HealthCheckResponse
    async with (
        grpc_server(make_ingress(source, api_keys=["k"])) as target,
        grpc.aio.insecure_channel(target) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == status.NOT_SERVING
        source.is_ready = True
        assert (await watch.read()).status == status.SERVING
        watch.cancel()
        for service in ("", "gptoss.v1.ChatService"):
            checked = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert checked.status == status.SERVING
        listed = await health.List(health_pb2.HealthListRequest())
        assert listed.statuses["gptoss.v1.GenerationService"].status == status.SERVING
        unknown = health.Watch(health_pb2.HealthCheckRequest(service="no"))
        assert (await unknown.read()).status == status.SERVICE_UNKNOWN
        unknown.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health.Check(health_pb2.HealthCheckRequest(service="no"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_every_rpc_is_a_method_of_its_own_name_and_takes_serves_context():
    names = [method.name for _, method in RPCS]
    assert len(set(names)) == len(names)
    for name in names:
        code = getattr(GrpcMethods, name).__code__
        assert code.co_varnames[: code.co_argcount] == ("self", "request", "grpc_context")


def test_the_servicer_functions_can_be_imported_and_are_those_of_all_services():
    registered = []
    for path in GRPC_SERVICER_FUNCTIONS:
        module, _, function = path.rpartition(".")
        registered.append(getattr(__import__(module, fromlist=[function]), function).__name__)
    assert registered == [f"add_{service.name}Servicer_to_server" for service in SERVICES]


@pytest.mark.parametrize(
    "message",
    [chat_request(MODEL, "x"), generate_request(MODEL, "x"), models_pb2.ListModelsRequest(), sampling(n=1)],
)
def test_messages_survive_the_pickling_with_which_serve_carries_them(message):
    assert pickle.loads(pickle.dumps(message)) == message
