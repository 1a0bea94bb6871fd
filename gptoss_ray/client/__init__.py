"""A typed gRPC client, sync and async.

::

    with Client("127.0.0.1:9000") as client:
        request = chat_request("gpt-oss-demo", "What is 17 + 25?")
        print(client.chat(request).choices[0].content)
        for piece in client.stream_chat(request):
            print(piece.choice.content, end="")

Requests and answers are the messages of `protos/gptoss/v1`. A call that was refused or broke raises
`grpc.RpcError`, whose `code()` and `details()` tell why, and `error_details(error)` for programs.

Calls are tried again as `RetryPolicy` says, and a stream that breaks is resumed, token for token: whoever
reads it notices a pause. `timeout_s` is the deadline of a call, all its attempts together: the server stops
there too. Closing a stream's generator cancels the call; `abort` ends calls from elsewhere, by the
`request_id` that they were given. `credentials=grpc.ssl_channel_credentials(...)` encrypts.
"""

from gptoss_ray.client.async_client import AsyncClient
from gptoss_ray.client.error_details import ErrorDetails, FieldViolation, error_details
from gptoss_ray.client.requests import chat_request, generate_request, new_response, tokenize_request
from gptoss_ray.client.retry import RetryPolicy
from gptoss_ray.client.sync_client import Client

__all__ = [
    "AsyncClient",
    "Client",
    "ErrorDetails",
    "FieldViolation",
    "RetryPolicy",
    "chat_request",
    "error_details",
    "generate_request",
    "new_response",
    "tokenize_request",
]
