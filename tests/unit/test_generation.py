import pickle

import pytest

from gptoss_ray.errors import ContextLengthExceededError, GptossError, InvalidRequestError, OverloadedError
from gptoss_ray.generation import SamplingParams


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
