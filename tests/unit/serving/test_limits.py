import pytest

from gptoss_ray.errors import RequestAbortedError, RequestTooLargeError
from gptoss_ray.serving.limits import read_body


def client(*messages):
    rest = list(messages)

    async def receive():
        return rest.pop(0)

    return receive, rest


def chunk(body, *, more_body=True):
    return {"type": "http.request", "body": body, "more_body": more_body}


async def test_a_body_is_read_to_its_end():
    receive, _ = client(chunk(b"ab"), chunk(b""), chunk(b"cd", more_body=False))
    assert await read_body(receive, 4) == b"abcd"


async def test_a_body_over_the_limit_is_not_read_further():
    receive, rest = client(chunk(b"abc"), chunk(b"de"), chunk(b"f", more_body=False))
    with pytest.raises(RequestTooLargeError):
        await read_body(receive, 4)
    assert len(rest) == 1


async def test_a_client_that_leaves_while_sending_is_told_apart():
    receive, _ = client(chunk(b"ab"), {"type": "http.disconnect"})
    with pytest.raises(RequestAbortedError):
        await read_body(receive, 4)
