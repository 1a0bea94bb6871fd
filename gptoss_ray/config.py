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

MODEL_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}$"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EngineConfig(_Frozen):
    """Limits and memory of one rank's engine."""

    max_num_sequences: int = Field(64, ge=1, le=4096, description="Sequences decoded together.")
    max_num_batched_tokens: int = Field(512, ge=16, le=65536, description="Token budget of one step.")
    max_queued_requests: int = Field(256, ge=0, description="Waiting requests before a refusal with 429.")
    max_context: int | None = Field(
        None, ge=16, le=131_072, description="Prompt and output tokens; the checkpoint's own where unset."
    )
    kv_block_size: Literal[16, 32, 64] = Field(32, description="Tokens in one KV block.")
    kv_cache_bytes: int = Field(256 << 20, ge=1 << 20, description="Memory for KV blocks.")
    prefix_cache: bool = Field(True, description="Reuse KV blocks of equal prefixes within one tenant.")
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="Activations and KV.")
    num_threads: int = Field(1, ge=1, le=512, description="CPU threads of the rank.")


class LimitsConfig(_Frozen):
    """What a single request may ask for, checked before anything is allocated."""

    max_body_bytes: int = Field(8 << 20, ge=1024, description="HTTP body or gRPC message.")
    max_messages: int = Field(2048, ge=1)
    max_tools: int = Field(128, ge=0)
    max_stop_strings: int = Field(16, ge=0)
    max_choices: int = Field(8, ge=1, le=128, description="Largest n.")


class ServedModelConfig(_Frozen):
    """One model behind the ingress."""

    name: Annotated[str, Field(pattern=MODEL_NAME_PATTERN)]
    aliases: tuple[Annotated[str, Field(pattern=MODEL_NAME_PATTERN)], ...] = ()
    checkpoint: str = Field(
        min_length=1, description="Local folder, Hugging Face id, or `demo` for the built-in model."
    )
    engine: EngineConfig = EngineConfig()
    startup_timeout_s: float = Field(600.0, gt=0, description="Loading longer than this is a failed start.")


class ServingConfig(_Frozen):
    """The `args` of the application: which models, who may ask, how much."""

    models: tuple[ServedModelConfig, ...] = Field(min_length=1)
    api_keys: tuple[SecretStr, ...] = Field(
        (), description="Any of them opens every path; none: no key needed."
    )
    api_keys_env: str | None = Field(None, description="Environment variable with comma-separated keys.")
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
