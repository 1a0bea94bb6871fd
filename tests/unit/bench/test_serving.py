import asyncio

import httpx
import pytest

from gptoss_ray.bench.serving import LoadResult, Sample, ask_http, closed_loop
from gptoss_ray.errors import GptossError

STREAM = """\
data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}

data: {"choices": [{"delta": {"reasoning": "hm"}}]}

data: {"choices": [{"delta": {"content": "42"}}]}

data: {"choices": [], "usage": {"completion_tokens": 9}}

data: [DONE]

"""


def client_answering(response):
    return httpx.AsyncClient(transport=httpx.MockTransport(lambda _: response), base_url="http://test")


async def test_tokens_are_those_that_the_server_counts():
    async with client_answering(httpx.Response(200, text=STREAM)) as http:
        sample = await ask_http(http, "m", "17 + 25")
    assert sample.num_tokens == 9
    assert 0 < sample.first_token_s < sample.total_s


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (httpx.Response(503, json={"error": {"message": "loading"}}), "loading"),
        (httpx.Response(200, text='data: {"error": {"message": "rank lost"}}\n\n'), "rank lost"),
        (httpx.Response(200, text=STREAM.removesuffix("data: [DONE]\n\n")), "ended early"),
    ],
)
async def test_a_refused_or_broken_request_ends_the_measurement(response, message):
    async with client_answering(response) as http:
        with pytest.raises(GptossError, match=message):
            await ask_http(http, "m", "hi")


async def test_a_closed_loop_sends_each_request_once_and_keeps_the_load():
    running = peak = 0

    async def ask(question):
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0.001)
        running -= 1
        return Sample(0.1, 0.3, 5)

    result = await closed_loop("HTTP", ask, concurrency=3, num_requests=10)
    assert len(result.samples) == 10
    assert peak == 3


def test_a_row_gives_medians_and_the_sum_over_clients():
    result = LoadResult("gRPC", 2, (Sample(0.1, 0.5, 5), Sample(0.2, 0.6, 5), Sample(0.3, 0.7, 5)), 1.5)
    row = result.row()
    assert row["first_token_p50_ms"] == 200
    assert row["first_token_p99_ms"] == 300
    assert row["per_token_p50_ms"] == 100
    assert row["tokens_per_s"] == 10
