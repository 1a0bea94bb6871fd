"""The chat command's sample functions, offered to the demo model as people ask for them."""

from __future__ import annotations

from gptoss_ray.checkpoint.hub import DEMO, resolve_folder
from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.commands.chat_tools import SAMPLE_TOOLS
from gptoss_ray.config import EngineConfig
from gptoss_ray.engine.engine import Engine
from gptoss_ray.generation import GenerationRequest, SamplingParams
from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.harmony.prompt import Message, PromptOptions, Tool, render_chat
from gptoss_ray.model.transformer import Transformer
from tests.support.engine_runs import run

WORDINGS = (
    ("get_weather", "What is the weather in {}?"),
    ("get_weather", "What's the weather in {}?"),
    ("get_weather", "How is the weather in {}?"),
    ("get_weather", "weather in {}"),
    ("get_weather", "Tell me the weather in {}."),
    ("get_weather", "Can you check the weather in {}?"),
    ("get_time", "What is the time in {}?"),
)
CITIES = ("Paris", "Berlin", "Tokyo", "Lima", "Oslo")


def test_the_demo_calls_the_sample_functions_with_the_city_of_the_question():
    config = EngineConfig(kv_cache_bytes=16 << 20)
    encoding = HarmonyEncoding.load(resolve_folder(DEMO))
    transformer = Transformer.load(CheckpointReader.open(resolve_folder(DEMO)), config)
    tools = [Tool(**tool.schema()["function"]) for tool in SAMPLE_TOOLS]
    options = PromptOptions(current_date="2026-01-01")
    params = SamplingParams(temperature=0.0, max_tokens=120, stop_token_ids=encoding.stop_token_ids)
    wanted, requests = {}, []
    for function, wording in WORDINGS:
        for city in CITIES:
            question = wording.format(city)
            prompt = render_chat(encoding, [Message("user", question)], tools, options)
            requests.append(GenerationRequest(question, tuple(prompt), params))
            wanted[question] = (
                f' to=functions.{function} <|constrain|>json<|message|>{{"city": "{city}"}}<|call|>'
            )
    engine = Engine(transformer, config)
    answers = run(engine, requests)
    engine.close()
    texts = {name: encoding.decode_bytes(answer.token_ids).decode() for name, answer in answers.items()}
    wrong = {name: text for name, text in texts.items() if not text.endswith(wanted[name])}
    assert len(wrong) <= len(wanted) // 20, wrong
