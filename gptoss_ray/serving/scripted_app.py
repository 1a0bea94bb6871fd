"""The Serve application over scripted engines: everything is as in `app.py` but what makes the tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.serve import Application
from ray.serve.schema import ServeDeploySchema

from gptoss_ray.checkpoint.hub import resolve_folder
from gptoss_ray.config import ServedModelConfig
from gptoss_ray.engine.scripted_engine import Script, ScriptedEngine
from gptoss_ray.engine.stamped_script import StampedScript
from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.serving.app import application
from gptoss_ray.serving.loopback_schema import loopback_schema
from gptoss_ray.serving.ruled_script import RuledScript
from gptoss_ray.serving.scripted_options import (
    LETTER,
    OPENING,
    ScriptedAnswers,
    ScriptedServer,
    ScriptedServing,
)
from gptoss_ray.serving.serve_file import ServeFile

NAME = "scripted"


@dataclass(frozen=True)
class ScriptedEngines:
    """Makes the engine of a rank, as `load_engine` does; of the checkpoint only the tokenizer is read."""

    answers: Mapping[str, ScriptedAnswers]

    def __call__(
        self,
        config: ServedModelConfig,
        _rank: int,
        _link: object,
        _suppressed_token_ids: Sequence[int],
        _progress: Callable[[float], None],
    ) -> ScriptedEngine:
        """See `load_engine`; the rank is alone."""
        answers = self.answers[config.name]
        encoding = HarmonyEncoding.load(resolve_folder(config.checkpoint))
        return ScriptedEngine(_script(answers, encoding), step_s=answers.step_s)


def _script(answers: ScriptedAnswers, encoding: HarmonyEncoding) -> Script:
    if answers.rules is not None:
        return RuledScript(answers.rules, encoding)
    (letter,) = encoding.encode(LETTER)
    return StampedScript(tuple(encoding.encode_with_special(OPENING)), letter, answers.stamps)


def build(args: dict[str, Any]) -> Application:
    """Compose the application from the fields of a `ScriptedServing`."""
    scripted = ScriptedServing.model_validate(args)
    return application(scripted.serving, ScriptedEngines(scripted.answers))


def scripted_file(server: ScriptedServer) -> ServeFile:
    """Return what a configuration file would say: one ingress replica, and a rank for each model."""
    schema = loopback_schema(
        server.http_port,
        server.grpc_port,
        server.application.model_dump(mode="json"),
        name=NAME,
        import_path=f"{__name__}:{build.__name__}",
    )
    return ServeFile(Path(NAME), ServeDeploySchema.model_validate(schema), server.application.serving)
