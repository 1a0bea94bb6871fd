import pickle

import pytest

from gptoss_ray.errors import ContextLengthExceededError, GptossError, InvalidRequestError, OverloadedError
from gptoss_ray.generation import FinishReason, SamplingParams, TokenLogprobs, TokenOutput


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1), ("temperature", 2.1), ("temperature", float("nan")), ("temperature", True),
        ("top_p", 0.0), ("top_p", 1.1), ("top_k", -1), ("min_p", 1.5), ("presence_penalty", 3),
        ("frequency_penalty", -3), ("repetition_penalty", 0), ("max_tokens", -1), ("min_tokens", 17),
        ("seed", 1 << 64), ("logprobs", 21), ("logit_bias", ((1, 101.0),)), ("logit_bias", ((-1, 1.0),)),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(InvalidRequestError, match=field) as caught:
        SamplingParams(**{field: value})
    assert caught.value.param == field


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequestError("bad", param="x"),
        ContextLengthExceededError("long", param="messages"),
        OverloadedError("full", retry_after_s=3.0),
        GptossError("m", code="c"),
    ],
)
def test_errors_cross_processes_with_their_fields(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__
    assert copy.code == error.code


def test_an_output_of_several_tokens_says_the_same_as_those_it_is_split_into():
    logprobs = tuple(TokenLogprobs(-float(number)) for number in range(3))
    whole = TokenOutput("r", 7, (5, 6, 5), logprobs, (None,), 12, FinishReason.STOP)
    first, second, last = whole.split()
    assert first == TokenOutput("r", 7, (5,), logprobs[:1], (None,), 12)
    assert second == TokenOutput("r", 8, (6,), logprobs[1:2], (), 12)
    assert last == TokenOutput("r", 9, (5,), logprobs[2:], (), 12, FinishReason.STOP)


@pytest.mark.parametrize("token_ids", [(), (4,)])
def test_an_output_of_at_most_one_token_is_not_split(token_ids):
    error = GptossError("m")
    output = TokenOutput("r", 0, token_ids, finish_reason=FinishReason.ERROR, error=error)
    assert output.split() == (output,)
