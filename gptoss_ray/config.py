"""What an operator may set, as frozen models; unknown keys are refused.

A configuration file is a Ray Serve config file (`serve deploy` takes it as it is). `ServingConfig` is
the `args` of its one application; the rest of the file is Serve's own schema. See `yaml_document.py`
for how a file is read and how a mistake is reported with its line.
"""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from gptoss_ray.errors import ConfigError

EXPERT_MEMORY_SHARE = 0.5
"""Of a machine's memory: what the experts of all its ranks may take where torch keeps them unpacked."""

DENSE_BITS = {"bfloat16": 16.0, "int8": 8 + 16 / 32}
"""Of one value in each format of `EngineConfig.dense_weights`; int8 has a float16 scale every 32 values."""

MAX_BODY_BYTES = 64 << 20
"""Of a request, whatever the configuration: what proxies take in, who do not know it."""

MODEL_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}$"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


MAX_DRAFTED_TOKENS = 64
"""Of a step, in all drafts: each costs a row of logits as wide as the vocabulary (0.8 MB of o200k's)."""


class EngineConfig(_Frozen):
    """Limits and memory of one rank's engine."""

    max_num_sequences: int = Field(64, ge=1, le=4096, description="Sequences decoded together.")
    max_num_batched_tokens: int = Field(512, ge=16, le=65536, description="Token budget of one step.")
    max_queued_requests: int = Field(256, ge=0, description="Waiting requests before a refusal with 429.")
    max_queued_tokens: int = Field(
        1 << 20, ge=1, description="Their tokens, prompts and expected outputs, before a refusal."
    )
    max_context: int | None = Field(
        None, ge=16, le=131_072, description="Prompt and output tokens; the checkpoint's own where unset."
    )
    kv_block_size: Literal[16, 32, 64] = Field(32, description="Tokens in one KV block.")
    kv_cache_bytes: int = Field(256 << 20, ge=1 << 20, description="Memory for KV blocks.")
    kv_cache_dtype: Literal["auto", "fp8"] = Field(
        "auto",
        description="Keys and values; auto: as dtype. fp8: e4m3 without scales, on GPUs; half the memory, "
        "less exact.",
    )
    prefix_cache: bool = Field(True, description="Reuse KV blocks of equal prefixes within one tenant.")
    speculation: Literal["auto", "ngram", "off"] = Field(
        "auto",
        description="Tokens guessed from earlier text and checked together; no answer depends on it. "
        "auto: where it should save time; ngram: wherever the text repeats.",
    )
    max_draft_tokens: int = Field(8, ge=1, le=32, description="Tokens guessed for one sequence at a time.")
    dtype: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="Activations, and KV where kv_cache_dtype is auto."
    )
    num_threads: int = Field(1, ge=1, le=512, description="CPU threads of the rank.")
    pin_threads: bool = Field(False, description="Native threads stay each on a CPU of its own.")
    kernels: Literal["auto", "native", "torch", "triton"] = Field(
        "auto",
        description="What computes; auto: on GPUs triton, on CPUs native where it is built and the model "
        "fits, else torch.",
    )
    dense_weights: Literal["bfloat16", "int8"] = Field(
        "bfloat16",
        description="Weights of attention and unembedding; int8 needs native kernels, or a GPU and MXFP4 "
        "experts.",
    )
    dense_matmuls: Literal["batch_invariant", "cublas"] = Field(
        "batch_invariant",
        description="What multiplies attention's matrices with more than 64 rows, on GPUs. cublas: meant to "
        "be faster, but a row's bits, and so an answer, depend on what is computed beside it.",
    )
    activations: Literal["bfloat16", "int8"] = Field(
        "bfloat16", description="What matrices multiply; int8 needs native kernels and int8 dense weights."
    )
    step_graphs: bool = Field(True, description="Replay whole decoding steps from graphs; on GPUs.")
    packed_weights: str | None = Field(
        None, min_length=1, description="Folder that keeps packed weights, for the next start and all ranks."
    )

    @property
    def kv_itemsize(self) -> int:
        """Bytes of a value in the KV cache."""
        if self.kv_cache_dtype == "fp8":
            return 1
        return 2 if self.dtype == "bfloat16" else 4

    @property
    def max_drafted_tokens(self) -> int:
        """Tokens of drafts that one step may check."""
        if self.speculation == "off":
            return 0
        return min(MAX_DRAFTED_TOKENS, self.max_num_sequences * self.max_draft_tokens)


class ParallelConfig(_Frozen):
    """The ranks that hold one copy of a model between them, and how they keep in step."""

    num_ranks: int = Field(1, ge=1, le=1024, description="Ranks of a group: shards of the experts.")
    num_nodes: int = Field(1, ge=1, le=128, description="Nodes the ranks are spread over, evenly.")
    device: Literal["cpu", "cuda"] = Field("cpu", description="What a rank computes on, one device each.")
    dispatch: Literal["auto", "padded", "exact"] = Field(
        "auto", description="How tokens travel to their experts; auto: padded while small."
    )
    max_padded_bytes: int = Field(4 << 20, ge=0, description="Largest padded exchange; above, exact.")
    shared_memory: bool = Field(True, description="Ranks of one host exchange through shared memory.")
    collectives: Literal["auto", "symmetric_memory"] = Field(
        "auto",
        description="What carries padded steps between cards: auto is NCCL; symmetric_memory is memory that "
        "the cards of one node share.",
    )
    num_spare_experts: int = Field(0, ge=0, description="Slots of a rank for copies of hot experts.")
    rebalance_interval_s: float = Field(
        60.0, gt=0, description="With spare slots, experts follow the load this often."
    )
    rebalance_min_tokens: int = Field(
        10_000, ge=1, description="Fewer tokens of all ranks together do not tell the load."
    )
    heartbeat_s: float = Field(0.05, gt=0, le=10, description="An idle group meets this often.")
    collective_timeout_s: float | None = Field(
        None,
        gt=0,
        description="A rank later than this is late; auto: 10 times what the step should take, 3 s at least.",
    )
    healing: Literal["auto", "restart", "in_place"] = Field(
        "auto",
        description="What a group does that loses a rank: all ends and starts anew, or the others go on; "
        "auto: they go on if they are CPU ranks.",
    )
    tolerated_rank_losses: int | None = Field(
        None,
        ge=0,
        description="So many ranks may be missing at once; the others keep room for their experts. "
        "auto: 1 where the group heals in place.",
    )
    lease_s: float = Field(2.0, ge=0.2, le=60, description="A rank silent for so long is lost.")
    max_prefill_delay_steps: int = Field(4, ge=0, description="Steps a prompt waits for other prompts.")
    max_prefill_tokens_per_step: int = Field(
        48,
        ge=16,
        description="Prompt tokens of a rank in a step while any rank decodes; the fewer, the longer until "
        "streams of a lost rank are resumed.",
    )
    min_decode_steps: int = Field(1, ge=0, description="Steps of decoding alone after a step with prompts.")

    @model_validator(mode="after")
    def _ranks_divide_evenly(self) -> ParallelConfig:
        if self.num_ranks % self.num_nodes:
            raise ValueError(
                f"num_ranks {self.num_ranks} is not a multiple of num_nodes {self.num_nodes}; "
                "every node holds equally many ranks"
            )
        return self

    @model_validator(mode="after")
    def _symmetric_memory_can_be_had(self) -> ParallelConfig:
        if self.collectives == "auto":
            return self
        problems = [
            (self.device != "cuda", f"device is {self.device!r}, and only cards have it"),
            (self.num_nodes > 1, f"num_nodes is {self.num_nodes}, and it reaches no other node"),
            (self.dispatch != "auto", f"dispatch is {self.dispatch!r}, and only 'auto' limits its size"),
            (self.healing == "in_place", "healing is 'in_place', and a rank cannot leave it alive"),
        ]
        for is_one, problem in problems:
            if is_one:
                raise ValueError(
                    f"collectives is 'symmetric_memory', but {problem}; change that, or set it to 'auto'"
                )
        return self

    @property
    def moves_experts(self) -> bool:
        """Whether the placement of experts follows the load."""
        return self.num_ranks > 1 and self.num_spare_experts > 0

    @property
    def heals_in_place(self) -> bool:
        """Whether ranks go on without one that is lost."""
        is_chosen = self.healing == "in_place" or (self.healing == "auto" and self.device == "cpu")
        return is_chosen and self.num_ranks > 1

    @property
    def num_tolerated_losses(self) -> int:
        """Ranks whose experts the others have room for."""
        if not self.heals_in_place:
            return 0
        wanted = 1 if self.tolerated_rank_losses is None else self.tolerated_rank_losses
        return min(wanted, self.num_ranks - 1)

    @property
    def num_ranks_per_node(self) -> int:
        """Ranks that share a node."""
        return self.num_ranks // self.num_nodes


class LimitsConfig(_Frozen):
    """What a single request may ask for, checked before anything is allocated."""

    max_body_bytes: int = Field(8 << 20, ge=1024, le=MAX_BODY_BYTES, description="HTTP body or gRPC message.")
    max_messages: int = Field(2048, ge=1, le=16_384)
    max_tools: int = Field(128, ge=0, le=16_384)
    max_stop_strings: int = Field(16, ge=0, le=16_384)
    max_choices: int = Field(8, ge=1, le=128, description="Largest n.")
    max_remembered_calls: int = Field(
        16_384, ge=0, description="Tool calls whose reasoning an ingress gives back to clients that drop it."
    )
    max_unread_tokens: int = Field(
        1024, ge=16, description="Of a choice; when its reader is further behind, its sequence pauses."
    )
    max_remembered_reasoning_bytes: int = Field(32 << 20, ge=0, description="Memory for that.")
    max_migrations: int = Field(
        5, ge=0, le=100, description="How often a request whose rank is lost goes on elsewhere; 0: never."
    )
    recovery_timeout_s: float = Field(
        60.0, ge=0, le=3600, description="How long a lost request looks for a rank that takes it."
    )
    max_stored_responses: int = Field(10_000, ge=0, description="Responses kept for their clients; 0: none.")
    max_stored_response_bytes: int = Field(256 << 20, ge=0, description="Memory for that.")
    max_stored_response_age_s: float = Field(86_400, ge=0, description="They are forgotten after that.")
    max_background_responses: int = Field(
        64, ge=0, description="Responses that an ingress replica works on in the background at once."
    )

    @property
    def stores_responses(self) -> bool:
        """Whether any response is kept."""
        limits = (
            self.max_stored_responses,
            self.max_stored_response_bytes,
            self.max_stored_response_age_s,
        )
        return all(limits)


class QuotaConfig(_Frozen):
    """What one API key may use, as each ingress replica counts it: two may let in twice as much."""

    requests_per_minute: int | None = Field(None, ge=1, le=1_000_000, description="Requests of any kind.")
    tokens_per_minute: int | None = Field(
        None, ge=1, le=1_000_000_000, description="Tokens of prompts and outputs together."
    )
    max_concurrent: int | None = Field(None, ge=1, le=100_000, description="Requests under way at once.")
    share: float = Field(
        1.0, ge=0.01, le=100, description="Of a full server, beside other keys with requests that wait."
    )


class ScalingConfig(_Frozen):
    """How many replicas a model has: between two bounds, as many as its load needs.

    Targets are of one replica; whichever is exceeded brings another.
    """

    min_replicas: int = Field(
        1,
        ge=0,
        le=1024,
        description="0: none while nobody asks; the first request is held until one is there.",
    )
    max_replicas: int = Field(1, ge=1, le=1024)
    target_running: float = Field(
        0.75, gt=0, le=1, description="Sequences, waiting ones too, as a share of engine.max_num_sequences."
    )
    target_kv_use: float = Field(0.8, gt=0, le=1, description="KV blocks that running sequences own.")
    target_queued_tokens: int = Field(
        16_384, ge=1, description="Of requests that wait, prompts and expected outputs."
    )
    target_first_token_s: float | None = Field(
        None, gt=0, le=3600, description="Time to the first token, of nine requests in ten; unset: any."
    )
    up_delay_s: float = Field(2.0, ge=0, le=3600, description="More load than that must last so long.")
    down_delay_s: float = Field(
        300.0, ge=0, le=86_400, description="So long must fewer replicas have been enough."
    )
    zero_delay_s: float = Field(
        900.0,
        ge=0,
        le=604_800,
        description="With min_replicas 0, the last one goes after so long without work.",
    )

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> ScalingConfig:
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"max_replicas {self.max_replicas} is less than min_replicas {self.min_replicas}"
            )
        return self

    @property
    def num_first_replicas(self) -> int:
        """At the start: one at least, so that what is wrong with it shows there."""
        return max(1, self.min_replicas)


class ServedModelConfig(_Frozen):
    """One model behind the ingress."""

    name: Annotated[str, Field(pattern=MODEL_NAME_PATTERN)]
    aliases: tuple[Annotated[str, Field(pattern=MODEL_NAME_PATTERN)], ...] = ()
    checkpoint: str = Field(
        min_length=1, description="Local folder, Hugging Face id, or `demo` for the built-in model."
    )
    verify_files: bool = Field(
        False, description="Before loading, every node hashes its files against the checkpoint's SHA256SUMS."
    )
    engine: EngineConfig = EngineConfig()
    parallel: ParallelConfig = ParallelConfig()
    placement_timeout_s: float = Field(
        30.0, gt=0, description="A replica without room this long is a failed start."
    )
    startup_timeout_s: float = Field(600.0, gt=0, description="Loading longer than this is a failed start.")
    scaling: ScalingConfig | None = Field(
        None, description="Replicas by load; unset: as the deployment's own options say, one without any."
    )
    routing: Literal["prefix", "load"] = Field(
        "prefix",
        description="Which replica takes a request: the one that has most of its prefix and least to do, or "
        "the less busy of two at random.",
    )
    hold_timeout_s: float = Field(
        300.0, gt=0, le=86_400, description="A request waits so long for a replica while there is none."
    )

    @model_validator(mode="after")
    def _pinned_threads_do_not_meet(self) -> ServedModelConfig:
        if self.engine.pin_threads and self.parallel.num_ranks_per_node > 1:
            raise ValueError(
                f"engine.pin_threads would pin the {self.parallel.num_ranks_per_node} ranks of a node to the "
                "same CPUs; it is for one rank a node"
            )
        return self


class ServingConfig(_Frozen):
    """The `args` of the application: which models, who may ask, how much."""

    models: tuple[ServedModelConfig, ...] = Field(min_length=1)
    api_keys: tuple[SecretStr, ...] = Field(
        (), description="Any of them opens every path; none: no key needed."
    )
    api_keys_env: str | None = Field(None, description="Environment variable with comma-separated keys.")
    api_keys_file: str | None = Field(
        None, min_length=1, description="YAML file of names, each with its key's SHA-256 and quotas."
    )
    allow_unauthenticated: bool = Field(
        False, description="Serve other hosts without any key; else that is a failed start."
    )
    page: bool = Field(True, description="The chat page at `/` and the dashboard, whose files need no key.")
    tracing: bool = Field(False, description="Spans for OpenTelemetry, exported as the variables OTEL_* say.")
    json_logs: bool = Field(
        False, description="Ingress, replicas and ranks write what they log from INFO on as JSON lines."
    )
    limits: LimitsConfig = LimitsConfig()

    @field_validator("api_keys")
    @classmethod
    def _keys_are_not_empty(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(not key.get_secret_value().strip() for key in keys):
            raise ValueError("an API key is empty; remove it or give it a value")
        return keys

    @model_validator(mode="after")
    def _names_are_unique(self) -> ServingConfig:
        names = [name for model in self.models for name in (model.name, *model.aliases)]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"model name or alias {name!r} is used twice; names must be unique")
        return self

    @property
    def needs_key(self) -> bool:
        """Whether every path but health demands a key."""
        return bool(self.api_keys or self.api_keys_env or self.api_keys_file)

    def resolve_api_keys(self) -> tuple[str, ...]:
        """Return the keys of the file and of the environment variable.

        Raises:
            ConfigError: `api_keys_env` names a variable that is unset or holds no key: going on
                would open the server that was meant to be closed.
        """
        keys = [key.get_secret_value() for key in self.api_keys]
        if self.api_keys_env is not None:
            found = [key.strip() for key in os.environ.get(self.api_keys_env, "").split(",") if key.strip()]
            if not found:
                raise ConfigError(
                    f"api_keys_env names {self.api_keys_env}, which is unset or empty; "
                    "export it with at least one key, or remove api_keys_env.",
                    param="api_keys_env",
                )
            keys += found
        return tuple(keys)
