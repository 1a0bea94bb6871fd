"""From a request to a response that can run: items found, checked, and rendered; nothing has run then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import from_json

from gptoss_ray.config import LimitsConfig
from gptoss_ray.errors import GptossError, InvalidRequestError, NotFoundError
from gptoss_ray.harmony.prompt import Message
from gptoss_ray.serving.chat import begin_chat
from gptoss_ray.serving.chat_prompt import check_size, render_request
from gptoss_ray.serving.metrics import IngressMetrics
from gptoss_ray.serving.models import ModelCatalog, ServedModel
from gptoss_ray.serving.openai_types import ChatFields
from gptoss_ray.serving.reasoning_cache import ReasoningCache
from gptoss_ray.serving.responses.chat_fields import chat_fields
from gptoss_ray.serving.responses.conversation import Conversation, PlacedItem, conversation_of
from gptoss_ray.serving.responses.field_names import FieldNames
from gptoss_ray.serving.responses.fitting_prompt import fitting_prompt, room_for_prompt
from gptoss_ray.serving.responses.input_items import AnyInputItem, ItemReference
from gptoss_ray.serving.responses.item_writer import new_id
from gptoss_ray.serving.responses.kept_input import kept_input
from gptoss_ray.serving.responses.request import ResponseRequest
from gptoss_ray.serving.responses.response_object import new_response
from gptoss_ray.serving.responses.response_writer import ResponseWriter
from gptoss_ray.serving.responses.run import ResponseRun
from gptoss_ray.serving.responses.shared_store import SharedStore
from gptoss_ray.serving.responses.stored_response import StoredItem
from gptoss_ray.serving.responses.tool_table import ToolTable
from gptoss_ray.serving.sampling import check_counts, check_prompt
from gptoss_ray.serving.structured_request import grammar_of_chat

_ITEM: TypeAdapter[AnyInputItem] = TypeAdapter(AnyInputItem)
_PREVIOUS = "previous_response_id"


@dataclass(frozen=True)
class Preparation:
    """Makes runs of requests.

    Attributes:
        catalog: The served models.
        limits: Bounds of a request.
        metrics: Count what the runs do.
        reasoning: What was thought before calls.
        store: Where earlier responses are.
        now: Returns Unix time in seconds.
    """

    catalog: ModelCatalog
    limits: LimitsConfig
    metrics: IngressMetrics
    reasoning: ReasoningCache
    store: SharedStore
    now: Callable[[], int]

    async def run(self, request: ResponseRequest, *, tenant: str, abort_key: str = "") -> ResponseRun:
        """Return the response to a request, ready to begin; `abort_key` is that of its requests for tokens.

        Raises:
            InvalidRequestError: A field is wrong; `param` names it.
            NotFoundError: The model, the previous response or an item that is referred to is unknown.
            UnavailableError: The store, which has one of them, cannot be reached.
        """
        model = self.catalog.find(request.model)
        tools = ToolTable(request.tools or (), self.limits.max_tools)
        chat = chat_fields(request, tools)
        check_counts(chat, self.limits)
        check_size("input", len(request.input), self.limits.max_messages)
        items = await self._items(request, tenant)
        conversation = conversation_of(
            request.instructions, items, tools.shown_name, partial(self.reasoning.find, tenant)
        )
        check_size("input", len(conversation.messages), self.limits.max_messages)
        if not conversation.messages:
            raise InvalidRequestError("input is empty; send at least one item.", param="input")
        created = self.now()
        response_id = new_id("resp")
        with FieldNames(conversation.paths, [tool.path for tool in tools.offered]).told():
            grammar = await grammar_of_chat(chat)
            prompt = await asyncio.to_thread(_prompt, request, chat, conversation, model, created)
            check_prompt(prompt, model, "input")
            answer = await begin_chat(
                chat,
                prompt,
                grammar,
                model,
                answer_id=response_id,
                metrics=self.metrics,
                reasoning=self.reasoning,
                tenant=tenant,
                created=created,
                abort_key=abort_key,
            )
        response = new_response(
            request,
            response_id,
            model.name,
            model.default_sampling,
            created=created,
            store=request.is_stored and self.limits.stores_responses,
        )
        own = [placed.item for placed in items if placed.path != _PREVIOUS]
        kept = await asyncio.to_thread(kept_input, own) if response["store"] else ()
        return ResponseRun(tenant, answer, ResponseWriter(response, tools), kept, self.now)

    async def _items(self, request: ResponseRequest, tenant: str) -> list[PlacedItem]:
        """Return all items of the conversation: those of earlier responses, then the request's own."""
        earlier = await self._earlier(request.previous_response_id, tenant)
        references = [item.id for item in request.input if isinstance(item, ItemReference)]
        found = await self.store.find_items(tenant, references) if references else {}
        items = [PlacedItem(item, _PREVIOUS) for item in earlier]
        for index, item in enumerate(request.input):
            path = f"input[{index}]"
            if not isinstance(item, ItemReference):
                items.append(PlacedItem(item, path))
            elif item.id in found:
                items.append(PlacedItem(_parsed(found[item.id]), path))
            else:
                raise NotFoundError(
                    f"{path}.id {item.id[:80]!r} is of no item kept here.", param=f"{path}.id"
                )
        return items

    async def _earlier(self, response_id: str | None, tenant: str) -> list[AnyInputItem]:
        if response_id is None:
            return []
        try:
            stored = await self.store.conversation(
                tenant, response_id, self.limits.max_messages, self.limits.max_body_bytes
            )
        except (InvalidRequestError, NotFoundError) as error:
            raise type(error)(error.message, param=_PREVIOUS, code=_code(error)) from None
        return await asyncio.to_thread(_all_parsed, stored)


def _code(error: GptossError) -> str | None:
    """Return the code that OpenAI gives an unknown response here."""
    return "previous_response_not_found" if isinstance(error, NotFoundError) else error.code


def _all_parsed(items: Iterable[StoredItem]) -> list[AnyInputItem]:
    return [_parsed(item) for item in items]


def _parsed(item: StoredItem) -> AnyInputItem:
    fields: Any = from_json(item.json)
    return _ITEM.validate_python(fields)


def _prompt(
    request: ResponseRequest, chat: ChatFields, conversation: Conversation, model: ServedModel, created: int
) -> list[int]:
    def render(messages: Sequence[Message]) -> list[int]:
        return render_request(chat, messages, model.encoding, created=created)

    if request.truncation != "auto":
        return render(conversation.messages)
    room = room_for_prompt(model.max_context, request.max_output_tokens)
    return fitting_prompt(render, conversation.messages, room)
