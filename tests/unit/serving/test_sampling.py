import pytest

from gptoss_ray.config import LimitsConfig
from gptoss_ray.errors import ContextLengthExceededError, InvalidRequestError
from gptoss_ray.serving.models import ServedModel
from gptoss_ray.serving.openai_types import CompletionRequest, parse_fields
from gptoss_ray.serving.sampling import check_counts, check_prompt, choice_requests, sampling_params
from tests.support.ingresses import MAX_CONTEXT, encoding
from tests.support.scripted_source import ScriptedSource


@pytest.fixture
def model() -> ServedModel:
    return ServedModel("m", encoding(), MAX_CONTEXT, encoding().vocab_size, ScriptedSource([]))


def request(**fields):
    return parse_fields(CompletionRequest, {"model": "m", "prompt": "p", **fields})


def params(model, *, num_prompt_tokens=10, max_tokens=16, **fields):
    return sampling_params(
        request(**fields), model, num_prompt_tokens=num_prompt_tokens, max_tokens=max_tokens, logprobs=None
    )


def test_what_the_client_left_out_is_the_models_default(model):
    assert params(model).temperature == model.default_sampling.temperature == 1.0
    assert params(model, temperature=0, top_k=5).temperature == 0
    assert params(model, temperature=0, top_k=5).top_k == 5


def test_a_seed_is_drawn_only_where_the_client_gave_none(model):
    assert params(model, seed=7).seed == 7
    assert params(model).seed != params(model).seed


@pytest.mark.parametrize(
    ("asked", "given"), [(16, 16), (131_072, MAX_CONTEXT - 10), (None, MAX_CONTEXT - 10)]
)
def test_max_tokens_is_cut_to_what_the_context_leaves(model, asked, given):
    assert params(model, max_tokens=asked).max_tokens == given


def test_ignore_eos_drops_the_models_stop_tokens_but_not_the_clients(model):
    assert params(model, stop_token_ids=[5]).stop_token_ids == (*encoding().stop_token_ids, 5)
    assert params(model, stop_token_ids=[5], ignore_eos=True).stop_token_ids == (5,)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 2.5),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_k", -1),
        ("min_p", 2.0),
        ("presence_penalty", 3.0),
        ("frequency_penalty", -3.0),
        ("repetition_penalty", 0.0),
        ("seed", 1 << 70),
        ("min_tokens", 17),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", [5000]),
        ("logit_bias", {"5": 101.0}),
        ("logit_bias", {"five": 1.0}),
        ("logit_bias", {"-5": 1.0}),
        ("logit_bias", {"5000": 1.0}),
        ("logit_bias", {"9" * 5000: 1.0}),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_field(model, field, value):
    with pytest.raises(InvalidRequestError) as caught:
        params(model, **{field: value})
    assert caught.value.param == field


def test_logit_bias_is_in_order_of_id(model):
    assert params(model, logit_bias={"9": 1.0, "5": -100.0}).logit_bias == ((5, -100.0), (9, 1.0))


@pytest.mark.parametrize(
    ("fields", "param"), [({"n": 3}, "n"), ({"stop": ["a"] * 3}, "stop"), ({"stop": "a" * 300}, "stop")]
)
def test_more_than_the_limits_allow_is_refused_by_its_field(fields, param):
    with pytest.raises(InvalidRequestError) as caught:
        check_counts(request(**fields), LimitsConfig(max_choices=2, max_stop_strings=2))
    assert caught.value.param == param


def test_a_prompt_must_leave_room_for_a_token(model):
    check_prompt([1] * (MAX_CONTEXT - 1), model, "prompt")
    with pytest.raises(ContextLengthExceededError) as caught:
        check_prompt([1] * MAX_CONTEXT, model, "prompt")
    assert caught.value.code == "context_length_exceeded"
    assert str(MAX_CONTEXT) in caught.value.message


@pytest.mark.parametrize("token_ids", [[], [-1], [4030], [1, 1 << 40]])
def test_a_prompt_must_be_of_known_tokens(model, token_ids):
    with pytest.raises(InvalidRequestError) as caught:
        check_prompt(token_ids, model, "prompt[2]")
    assert caught.value.param == "prompt[2]"


def test_choices_share_prompt_and_seed_and_differ_in_their_index(model):
    first, second = choice_requests("id", [1, 2], params(model), 2, "tenant")
    assert first.request_id != second.request_id
    assert first.params.seed == second.params.seed
    assert (first.params.choice_index, second.params.choice_index) == (0, 1)
    assert first.cache_salt == "tenant"
