from __future__ import annotations

import json
import pickle
import warnings

import pytest
from pydantic import ValidationError

from gptoss_ray.checkpoint.hub import resolve_folder
from gptoss_ray.config import ServedModelConfig, ServingConfig
from gptoss_ray.generation import GenerationRequest, SamplingParams
from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.serving.scripted_options import (
    LETTER,
    OPENING,
    ScriptedAnswers,
    ScriptedServer,
    ScriptedServing,
)

with warnings.catch_warnings():
    # Importing Serve warns of how Serve uses pydantic.
    warnings.simplefilter("ignore")
    from gptoss_ray.serving.scripted_app import ScriptedEngines, scripted_file

MODEL = ServedModelConfig(name="m", checkpoint="demo")
SERVING = ServingConfig(models=(MODEL,))


def test_an_engine_answers_in_letters_of_one_token_each():
    # Ray sends the maker of the engines to the ranks.
    load = pickle.loads(pickle.dumps(ScriptedEngines({"m": ScriptedAnswers()})))
    engine = load(MODEL, 0, None, (), lambda _: None)
    encoding = HarmonyEncoding.load(resolve_folder(MODEL.checkpoint))
    num_tokens = len(encoding.encode_with_special(OPENING)) + 3
    engine.submit(GenerationRequest("r", (1,), SamplingParams(max_tokens=num_tokens)))
    token_ids = [
        id_ for _ in range(num_tokens) for output in engine.run(engine.agree()) for id_ in output.token_ids
    ]
    assert encoding.decode_bytes(token_ids).decode() == OPENING + 3 * LETTER


def test_a_model_answers_as_its_own_name_says(tmp_path):
    answers = {"m": ScriptedAnswers(), "n": ScriptedAnswers(step_s=0.5, stamps=tmp_path / "stamps")}
    engines = ScriptedEngines(answers)
    fast, paced = (
        engines(MODEL.model_copy(update={"name": name}), 0, None, (), lambda _: None) for name in answers
    )
    assert (fast._step_s, paced._step_s) == (0.0, 0.5)


def test_a_model_with_rules_answers_by_them(tmp_path):
    (tmp_path / "rules").write_text('[{"prompt": "", "output": "yes"}]')
    engine = ScriptedEngines({"m": ScriptedAnswers(rules=tmp_path / "rules")})(MODEL, 0, None, (), print)
    engine.submit(GenerationRequest("r", (1,), SamplingParams(max_tokens=9)))
    token_ids = [id_ for _ in range(9) for output in engine.run(engine.agree()) for id_ in output.token_ids]
    assert HarmonyEncoding.load(resolve_folder(MODEL.checkpoint)).decode_bytes(token_ids) == b"yes"


def test_rules_and_stamps_are_not_for_the_same_answers(tmp_path):
    with pytest.raises(ValidationError, match="no stamps"):
        ScriptedAnswers(rules=tmp_path, stamps=tmp_path)


def test_the_file_is_one_that_serve_takes_and_stays_on_loopback(tmp_path):
    answers = {"m": ScriptedAnswers(step_s=0.05, stamps=tmp_path / "stamps")}
    server = ScriptedServer(
        http_port=8001, grpc_port=9001, application=ScriptedServing(serving=SERVING, answers=answers)
    )
    file = scripted_file(ScriptedServer.model_validate_json(server.model_dump_json()))
    assert (file.schema.http_options.host, file.schema.http_options.port) == ("127.0.0.1", 8001)
    assert file.schema.grpc_options.port == 9001
    assert file.schema.controller_options.runtime_env["env_vars"]["GPTOSS_RAY_GRPC_HOST"] == "127.0.0.1"
    (application,) = file.schema.applications
    args = json.loads(json.dumps(application.args))
    assert ScriptedServing.model_validate(args) == server.application


def test_a_field_that_there_is_not_is_refused():
    with pytest.raises(ValidationError, match="step_ms"):
        ScriptedAnswers(step_ms=3)
