from __future__ import annotations

import pytest

from gptoss_ray.engine.limits import check_request, resolve_context
from gptoss_ray.errors import ConfigError, ContextLengthExceededError, InvalidRequestError
from gptoss_ray.generation import GenerationRequest, SamplingParams


def test_the_context_is_what_model_and_pool_can_hold():
    assert resolve_context(1000, None, 300) == 300
    assert resolve_context(1000, None, 5000) == 1000
    assert resolve_context(1000, 200, 300) == 200


@pytest.mark.parametrize(
    ("model", "wanted", "pool", "at_fault"),
    [
        (1000, 2000, 5000, "max_context"),
        (1000, 400, 300, "kv_cache_bytes"),
        (1000, None, 0, "kv_cache_bytes"),
    ],
)
def test_a_context_that_cannot_be_held_is_refused_with_the_option_to_change(model, wanted, pool, at_fault):
    with pytest.raises(ConfigError) as caught:
        resolve_context(model, wanted, pool)
    assert caught.value.param == at_fault


@pytest.mark.parametrize(
    ("prompt", "emitted", "params", "field"),
    [
        ((), (), {}, "prompt"),
        ((1, 50), (), {}, "prompt"),
        ((-1,), (), {}, "prompt"),
        ((1,), (50,), {}, "emitted_token_ids"),
        ((1,), (), {"stop_token_ids": (3, 50)}, "stop_token_ids"),
        ((1,), (), {"logit_bias": ((50, 1.0),)}, "logit_bias"),
    ],
)
def test_a_request_outside_the_vocabulary_is_refused_by_field(prompt, emitted, params, field):
    request = GenerationRequest("r", prompt, SamplingParams(**params), emitted)
    with pytest.raises(InvalidRequestError) as caught:
        check_request(request, vocab_size=50, max_context=100)
    assert caught.value.param == field


def test_a_prompt_that_fills_the_context_is_refused_with_both_numbers():
    request = GenerationRequest("r", (1,) * 100)
    with pytest.raises(ContextLengthExceededError, match=r"100 tokens.*at most 100"):
        check_request(request, vocab_size=50, max_context=100)
    check_request(GenerationRequest("r", (1,) * 99), vocab_size=50, max_context=100)
