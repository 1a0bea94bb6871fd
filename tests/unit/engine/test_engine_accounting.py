"""Random lives of an engine under pressure: no block leaks, and every answer is the lonely one."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gptoss_ray.engine.engine import Engine
from gptoss_ray.generation import FinishReason, GenerationRequest, SamplingParams, TokenLogprobs
from tests.support.constraints import HashedConstraint, InlineMasks
from tests.support.drafters import KnowingDrafter
from tests.support.engine_invariants import check_engine
from tests.support.engine_runs import run, small_config
from tests.support.fake_transformer import FakeConfig, FakeTransformer
from tests.support.recorded_stream import RecordedStream, on_stream

# Small enough that every example meets preemption, eviction and refused admissions.
TINY_CONFIG = FakeConfig(vocab_size=7, sliding_window=6, max_context=90)
BLOCK_BYTES = 64
PROMPTS = st.builds(
    lambda shared, own: (1, 2, 3, 4, 5, 6, 0, 1, 2, 3)[:shared] * 3 + tuple(own),
    st.integers(0, 10),
    st.lists(st.integers(0, 6), min_size=1, max_size=20),
)
PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 3),
    max_tokens=st.integers(0, 60),
    prompt_logprobs=st.sampled_from([None, None, 1]),
    stop_token_ids=st.sampled_from([(), (6,)]),
    grammar=st.sampled_from([None, "a", "b"]),
)


def make_engine(transformer, num_blocks, drafter=None, make_executor=None, **config):
    config = {"kv_block_size": 4, "max_num_batched_tokens": 8, "max_num_sequences": 4} | config
    config["speculation"] = "off" if drafter is None else "ngram"
    return Engine(
        transformer,
        small_config(kv_cache_bytes=num_blocks * BLOCK_BYTES, **config),
        drafter=drafter,
        compile_grammar=lambda grammar: HashedConstraint(grammar, TINY_CONFIG.vocab_size),
        make_executor=make_executor,
    )


class EngineMachine(RuleBasedStateMachine):
    """Submits, aborts, steps and failing steps in any order."""

    drafter = None
    make_executor = None

    def __init__(self):
        super().__init__()
        self.transformer = FakeTransformer(TINY_CONFIG)
        self.engine = make_engine(self.transformer, 26, self.drafter, self.make_executor)
        self.requests: dict[str, GenerationRequest] = {}
        self.outputs: dict[str, list[int]] = {}
        self.scores: dict[str, list[TokenLogprobs | None]] = {}
        self.num_submitted = 0

    @rule(prompt=PROMPTS, params=PARAMS, salt=st.sampled_from(["", "b"]))
    def submit(self, prompt, params, salt):
        request_id = f"r{self.num_submitted}"
        self.num_submitted += 1
        request = GenerationRequest(request_id, prompt, params, cache_salt=salt)
        self.engine.submit(request)
        self.requests[request_id] = request
        self.outputs[request_id], self.scores[request_id] = [], []

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def abort(self, data):
        request_id = data.draw(st.sampled_from(sorted(self.requests)))
        assert self.engine.abort(request_id)
        del self.requests[request_id]

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def move_elsewhere_and_back(self, data):
        """A request is lost and resumed from its tokens alone, as after the death of a rank."""
        request_id = data.draw(st.sampled_from(sorted(self.requests)))
        old = self.requests[request_id]
        self.engine.abort(request_id)
        emitted = tuple(self.outputs[request_id])
        self.engine.submit(
            GenerationRequest(request_id, old.prompt_token_ids, old.params, emitted, old.cache_salt)
        )

    @rule(num_steps=st.integers(1, 12))
    def step(self, num_steps):
        for _ in range(num_steps):
            for output in self.engine.step():
                self.take(output)
            check_engine(self.engine)

    @precondition(lambda self: self.requests)
    @rule()
    def failing_step(self):
        self.transformer.failing = {self.transformer.num_forwards + 1}
        try:
            outputs = self.engine.step()
        except RuntimeError:
            return
        for output in outputs:  # every request was complete when it was submitted again
            self.take(output)
        self.transformer.failing = set()

    def take(self, output):
        tokens = self.outputs[output.request_id]
        assert output.position == len(tokens)
        tokens += output.token_ids
        self.scores[output.request_id] += output.prompt_logprobs
        if output.finish_reason is None:
            return
        assert output.finish_reason in {FinishReason.STOP, FinishReason.LENGTH}
        request = self.requests.pop(output.request_id)
        context = self.engine.max_context
        lonely = make_engine(FakeTransformer(TINY_CONFIG), num_blocks=200, max_context=context)
        lonely._executor.masks = InlineMasks()
        expected = run(lonely, [GenerationRequest("x", request.prompt_token_ids, request.params)])["x"]
        assert tuple(tokens) == expected.token_ids
        assert tuple(self.scores[output.request_id]) == expected.prompt_logprobs

    @invariant()
    def blocks_are_accounted_for(self):
        check_engine(self.engine)

    def teardown(self):
        while self.engine.has_work:
            for output in self.engine.step():
                self.take(output)
        check_engine(self.engine)
        assert self.engine.stats().kv_cache_usage == 0
        assert not self.requests
        self.engine.close()


class EngineAheadMachine(EngineMachine):
    """The same where steps are launched ahead, and replayed from graphs."""

    def __init__(self):
        self.make_executor = on_stream(RecordedStream())
        super().__init__()


class SpeculatingMachine(EngineMachine):
    """The same with drafts, which are right and wrong at random."""

    def __init__(self):
        self.answers: dict[tuple[object, ...], tuple[int, ...]] = {}
        self.drafter = KnowingDrafter(self.know, TINY_CONFIG.vocab_size)
        super().__init__()

    def know(self, sequence):
        request = sequence.request
        key = (request.prompt_token_ids, request.params)
        if key not in self.answers:
            lonely = make_engine(FakeTransformer(TINY_CONFIG), num_blocks=200)
            lonely._executor.masks = InlineMasks()
            self.answers[key] = run(lonely, [GenerationRequest("x", *key)])["x"].token_ids
        return self.answers[key]


TestEngineMachine = EngineMachine.TestCase
TestEngineMachine.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestEngineAheadMachine = EngineAheadMachine.TestCase
TestEngineAheadMachine.settings = TestEngineMachine.settings
TestSpeculatingMachine = SpeculatingMachine.TestCase
TestSpeculatingMachine.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
