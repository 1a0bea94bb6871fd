"""`docs/api.md` names every field that a client can send and every path."""

import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from gptoss_ray.serving.http_app import build_fastapi_app
from gptoss_ray.serving.openai_types import (
    ChatCompletionRequest,
    ChatMessage,
    CompletionRequest,
    DrawFields,
    FunctionDefinition,
    SamplingFields,
    StreamOptions,
    ToolDefinition,
)
from gptoss_ray.serving.responses.events import ResponseEvent
from gptoss_ray.serving.responses.input_items import (
    CallOutputInput,
    CustomToolCallInput,
    FunctionCallInput,
    ItemReference,
    MessageItem,
    ReasoningInput,
)
from gptoss_ray.serving.responses.request import ReasoningOptions, ResponseRequest, TextOptions
from gptoss_ray.serving.responses.tools import CustomFormat, CustomTool, FunctionTool, NamespaceTool
from gptoss_ray.serving.tokenization import DetokenizeRequest, TokenizeRequest
from tests.support.ingresses import make_ingress

DOCUMENT = (Path(__file__).parents[3] / "docs/api.md").read_text(encoding="utf-8")


def names_in(*headings):
    """Return the words in code style in these sections."""
    sections = re.split(r"^#+ ", DOCUMENT, flags=re.MULTILINE)
    text = "".join(section for section in sections[1:] if section.splitlines()[0] in headings)
    assert text, headings
    return {word for code in re.findall(r"`([^`]+)`", text) for word in re.findall(r"[\w./{}-]+", code)}


def test_every_event_of_a_response_is_named():
    kinds = {name for event in get_args(ResponseEvent) for name in get_args(get_type_hints(event)["type"])}
    assert {name.removeprefix("response.") for name in kinds} - names_in("Responses") == set()


BOTH = "Fields of chat and completions"
RESPONSES = "Fields of responses"


@pytest.mark.parametrize(
    ("kind", "headings"),
    [
        (SamplingFields, (BOTH,)),
        (StreamOptions, (BOTH,)),
        (ChatCompletionRequest, (BOTH, "Fields of chat alone")),
        (ChatMessage, ("Fields of chat alone",)),
        (ToolDefinition, ("Fields of chat alone",)),
        (FunctionDefinition, ("Fields of chat alone",)),
        (CompletionRequest, (BOTH, "Fields of completions alone")),
        (TokenizeRequest, ("Fields of tokenize and detokenize",)),
        (DetokenizeRequest, ("Fields of tokenize and detokenize",)),
        (DrawFields, (BOTH,)),
        (ResponseRequest, (BOTH, RESPONSES)),
        (ReasoningOptions, (RESPONSES,)),
        (TextOptions, (RESPONSES,)),
        (FunctionTool, (RESPONSES,)),
        (CustomTool, (RESPONSES,)),
        (CustomFormat, (RESPONSES,)),
        (NamespaceTool, (RESPONSES,)),
        (MessageItem, (RESPONSES,)),
        (ReasoningInput, (RESPONSES,)),
        (FunctionCallInput, (RESPONSES,)),
        (CustomToolCallInput, (RESPONSES,)),
        (CallOutputInput, (RESPONSES,)),
        (ItemReference, (RESPONSES,)),
    ],
)
def test_every_field_is_named(kind, headings):
    assert kind.model_fields.keys() - names_in(*headings) == set()


@pytest.mark.parametrize("kind", [ChatCompletionRequest, CompletionRequest, ResponseRequest])
def test_every_refused_field_is_named(kind):
    assert kind.refused.keys() - names_in("Refused") == set()


def test_every_path_is_named():
    routes = build_fastapi_app(make_ingress([])).routes
    paths = {route.path.replace(":path", "") for route in routes if route.include_in_schema}
    assert paths - names_in("HTTP") == set()
