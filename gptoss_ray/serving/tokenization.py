"""Texts and chats to token ids and back, for clients that count or cut tokens themselves."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from gptoss_ray.errors import InvalidRequestError
from gptoss_ray.harmony.tokenizer_files import TOKEN_ROLES, TOKENIZER_CLASS
from gptoss_ray.serving.chat_prompt import conversation, render_request
from gptoss_ray.serving.models import ServedModel
from gptoss_ray.serving.openai_types import (
    ChatCompletionRequest,
    ChatMessage,
    RequestEffort,
    ToolDefinition,
)
from gptoss_ray.serving.request_fields import MAX_PROMPT_IDS, Items, RequestFields, at_most
from gptoss_ray.serving.sampling import check_ids, encode_prompt


class TokenizeRequest(RequestFields):
    """POST /tokenize: a raw prompt as completions take it, or messages as chats do."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[Items[ChatMessage], Field(min_length=1)] | None = None
    tools: Items[ToolDefinition] | None = None
    reasoning_effort: RequestEffort | None = None
    add_generation_prompt: bool = True
    return_token_strs: bool | None = None


class DetokenizeRequest(RequestFields):
    """POST /detokenize."""

    model: str | None = None
    tokens: Annotated[list[int], Field(fail_fast=True), at_most(MAX_PROMPT_IDS)]


class Tokenized(TypedDict):
    """A prompt's tokens; `token_strs` has U+FFFD where a token cuts a character."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: NotRequired[list[str]]


class Detokenized(TypedDict):
    """The text of tokens, control tokens by their names."""

    prompt: str


class TokenizerInfo(TypedDict):
    """What lm-eval asks of a remote tokenizer."""

    tokenizer_class: str
    bos_token: str
    eos_token: str
    pad_token: str
    model_max_length: int


async def tokenize(request: TokenizeRequest, model: ServedModel, *, created: int) -> Tokenized:
    """Return the tokens that the model would read; a chat's system message tells the day of `created`.

    Raises:
        InvalidRequestError: Not exactly one of prompt and messages is there, a field of it is wrong, or it
            has more tokens than one request may have.
    """
    if (request.prompt is None) == (request.messages is None):
        raise InvalidRequestError("Send either prompt or messages.", param="prompt")
    return await asyncio.to_thread(_tokenized, request, model, created)


def _tokenized(request: TokenizeRequest, model: ServedModel, created: int) -> Tokenized:
    token_ids = _token_ids(request, model, created)
    if len(token_ids) > MAX_PROMPT_IDS:
        param = "messages" if request.prompt is None else "prompt"
        raise InvalidRequestError(
            f"{param} has {len(token_ids)} tokens; at most {MAX_PROMPT_IDS} are told, send less.", param=param
        )
    tokenized = Tokenized(count=len(token_ids), max_model_len=model.max_context, tokens=token_ids)
    if request.return_token_strs:
        token_bytes = map(model.encoding.token_bytes, token_ids)
        tokenized["token_strs"] = [token.decode("utf-8", "replace") for token in token_bytes]
    return tokenized


def _token_ids(request: TokenizeRequest, model: ServedModel, created: int) -> list[int]:
    if request.prompt is not None:
        return encode_prompt(request.prompt, model, "prompt")
    fields: dict[str, Any] = {
        "messages": request.messages,
        "tools": request.tools,
        "reasoning_effort": request.reasoning_effort,
    }
    chat = ChatCompletionRequest(model=model.name, **fields)
    messages = conversation(chat)
    return render_request(
        chat, messages, model.encoding, created=created, opens_answer=request.add_generation_prompt
    )


async def detokenize(request: DetokenizeRequest, model: ServedModel) -> Detokenized:
    """Return the tokens' text; raise InvalidRequestError for an id that the model does not know."""
    return Detokenized(prompt=await asyncio.to_thread(_text, request.tokens, model))


def _text(token_ids: list[int], model: ServedModel) -> str:
    check_ids(token_ids, model, "tokens")
    return model.encoding.decode_bytes(token_ids).decode("utf-8", "replace")


def tokenizer_info(model: ServedModel) -> TokenizerInfo:
    """Describe the tokenizer in transformers' words."""
    return TokenizerInfo(
        tokenizer_class=TOKENIZER_CLASS,
        bos_token=TOKEN_ROLES["bos_token"],
        eos_token=TOKEN_ROLES["eos_token"],
        pad_token=TOKEN_ROLES["pad_token"],
        model_max_length=model.max_context,
    )
