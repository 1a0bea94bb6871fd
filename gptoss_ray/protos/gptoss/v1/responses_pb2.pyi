from gptoss_ray.protos.gptoss.v1 import chat_pb2 as _chat_pb2
from gptoss_ray.protos.gptoss.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ItemStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ITEM_STATUS_UNSPECIFIED: _ClassVar[ItemStatus]
    ITEM_STATUS_IN_PROGRESS: _ClassVar[ItemStatus]
    ITEM_STATUS_COMPLETED: _ClassVar[ItemStatus]
    ITEM_STATUS_INCOMPLETE: _ClassVar[ItemStatus]

class ResponseStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESPONSE_STATUS_UNSPECIFIED: _ClassVar[ResponseStatus]
    RESPONSE_STATUS_QUEUED: _ClassVar[ResponseStatus]
    RESPONSE_STATUS_IN_PROGRESS: _ClassVar[ResponseStatus]
    RESPONSE_STATUS_COMPLETED: _ClassVar[ResponseStatus]
    RESPONSE_STATUS_INCOMPLETE: _ClassVar[ResponseStatus]
    RESPONSE_STATUS_FAILED: _ClassVar[ResponseStatus]
    RESPONSE_STATUS_CANCELLED: _ClassVar[ResponseStatus]

class MessagePhase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MESSAGE_PHASE_UNSPECIFIED: _ClassVar[MessagePhase]
    MESSAGE_PHASE_COMMENTARY: _ClassVar[MessagePhase]
    MESSAGE_PHASE_FINAL_ANSWER: _ClassVar[MessagePhase]
ITEM_STATUS_UNSPECIFIED: ItemStatus
ITEM_STATUS_IN_PROGRESS: ItemStatus
ITEM_STATUS_COMPLETED: ItemStatus
ITEM_STATUS_INCOMPLETE: ItemStatus
RESPONSE_STATUS_UNSPECIFIED: ResponseStatus
RESPONSE_STATUS_QUEUED: ResponseStatus
RESPONSE_STATUS_IN_PROGRESS: ResponseStatus
RESPONSE_STATUS_COMPLETED: ResponseStatus
RESPONSE_STATUS_INCOMPLETE: ResponseStatus
RESPONSE_STATUS_FAILED: ResponseStatus
RESPONSE_STATUS_CANCELLED: ResponseStatus
MESSAGE_PHASE_UNSPECIFIED: MessagePhase
MESSAGE_PHASE_COMMENTARY: MessagePhase
MESSAGE_PHASE_FINAL_ANSWER: MessagePhase

class TextLogprob(_message.Message):
    __slots__ = ("token", "logprob")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    token: bytes
    logprob: float
    def __init__(self, token: _Optional[bytes] = ..., logprob: _Optional[float] = ...) -> None: ...

class TextLogprobs(_message.Message):
    __slots__ = ("chosen", "top")
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    chosen: TextLogprob
    top: _containers.RepeatedCompositeFieldContainer[TextLogprob]
    def __init__(self, chosen: _Optional[_Union[TextLogprob, _Mapping]] = ..., top: _Optional[_Iterable[_Union[TextLogprob, _Mapping]]] = ...) -> None: ...

class MessageItem(_message.Message):
    __slots__ = ("role", "text", "phase", "logprobs")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    role: _chat_pb2.Role
    text: str
    phase: MessagePhase
    logprobs: _containers.RepeatedCompositeFieldContainer[TextLogprobs]
    def __init__(self, role: _Optional[_Union[_chat_pb2.Role, str]] = ..., text: _Optional[str] = ..., phase: _Optional[_Union[MessagePhase, str]] = ..., logprobs: _Optional[_Iterable[_Union[TextLogprobs, _Mapping]]] = ...) -> None: ...

class ReasoningItem(_message.Message):
    __slots__ = ("texts",)
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    texts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, texts: _Optional[_Iterable[str]] = ...) -> None: ...

class FunctionCallItem(_message.Message):
    __slots__ = ("call_id", "name", "namespace", "arguments_json")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_JSON_FIELD_NUMBER: _ClassVar[int]
    call_id: str
    name: str
    namespace: str
    arguments_json: str
    def __init__(self, call_id: _Optional[str] = ..., name: _Optional[str] = ..., namespace: _Optional[str] = ..., arguments_json: _Optional[str] = ...) -> None: ...

class CustomToolCallItem(_message.Message):
    __slots__ = ("call_id", "name", "namespace", "input")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    call_id: str
    name: str
    namespace: str
    input: str
    def __init__(self, call_id: _Optional[str] = ..., name: _Optional[str] = ..., namespace: _Optional[str] = ..., input: _Optional[str] = ...) -> None: ...

class CallOutputItem(_message.Message):
    __slots__ = ("call_id", "output", "is_custom")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    IS_CUSTOM_FIELD_NUMBER: _ClassVar[int]
    call_id: str
    output: str
    is_custom: bool
    def __init__(self, call_id: _Optional[str] = ..., output: _Optional[str] = ..., is_custom: _Optional[bool] = ...) -> None: ...

class ResponseItem(_message.Message):
    __slots__ = ("id", "status", "message", "reasoning", "function_call", "custom_tool_call", "call_output", "reference_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REASONING_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_CALL_FIELD_NUMBER: _ClassVar[int]
    CUSTOM_TOOL_CALL_FIELD_NUMBER: _ClassVar[int]
    CALL_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    status: ItemStatus
    message: MessageItem
    reasoning: ReasoningItem
    function_call: FunctionCallItem
    custom_tool_call: CustomToolCallItem
    call_output: CallOutputItem
    reference_id: str
    def __init__(self, id: _Optional[str] = ..., status: _Optional[_Union[ItemStatus, str]] = ..., message: _Optional[_Union[MessageItem, _Mapping]] = ..., reasoning: _Optional[_Union[ReasoningItem, _Mapping]] = ..., function_call: _Optional[_Union[FunctionCallItem, _Mapping]] = ..., custom_tool_call: _Optional[_Union[CustomToolCallItem, _Mapping]] = ..., call_output: _Optional[_Union[CallOutputItem, _Mapping]] = ..., reference_id: _Optional[str] = ...) -> None: ...

class CustomTool(_message.Message):
    __slots__ = ("name", "description")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ...) -> None: ...

class NamespaceTool(_message.Message):
    __slots__ = ("name", "description", "functions", "custom_tools")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    FUNCTIONS_FIELD_NUMBER: _ClassVar[int]
    CUSTOM_TOOLS_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    functions: _containers.RepeatedCompositeFieldContainer[_chat_pb2.Tool]
    custom_tools: _containers.RepeatedCompositeFieldContainer[CustomTool]
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., functions: _Optional[_Iterable[_Union[_chat_pb2.Tool, _Mapping]]] = ..., custom_tools: _Optional[_Iterable[_Union[CustomTool, _Mapping]]] = ...) -> None: ...

class ResponseTool(_message.Message):
    __slots__ = ("function", "custom", "namespace")
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    CUSTOM_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    function: _chat_pb2.Tool
    custom: CustomTool
    namespace: NamespaceTool
    def __init__(self, function: _Optional[_Union[_chat_pb2.Tool, _Mapping]] = ..., custom: _Optional[_Union[CustomTool, _Mapping]] = ..., namespace: _Optional[_Union[NamespaceTool, _Mapping]] = ...) -> None: ...

class ToolName(_message.Message):
    __slots__ = ("name", "namespace")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    name: str
    namespace: str
    def __init__(self, name: _Optional[str] = ..., namespace: _Optional[str] = ...) -> None: ...

class NewResponse(_message.Message):
    __slots__ = ("model", "input", "instructions", "previous_response_id", "tools", "tool_choice", "allowed_tools", "reasoning_effort", "sampling", "response_format", "truncates", "store", "background", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTIONS_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_RESPONSE_ID_FIELD_NUMBER: _ClassVar[int]
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    TOOL_CHOICE_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_TOOLS_FIELD_NUMBER: _ClassVar[int]
    REASONING_EFFORT_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FORMAT_FIELD_NUMBER: _ClassVar[int]
    TRUNCATES_FIELD_NUMBER: _ClassVar[int]
    STORE_FIELD_NUMBER: _ClassVar[int]
    BACKGROUND_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    model: str
    input: _containers.RepeatedCompositeFieldContainer[ResponseItem]
    instructions: str
    previous_response_id: str
    tools: _containers.RepeatedCompositeFieldContainer[ResponseTool]
    tool_choice: _chat_pb2.ToolChoice
    allowed_tools: _containers.RepeatedCompositeFieldContainer[ToolName]
    reasoning_effort: _chat_pb2.ReasoningEffort
    sampling: _common_pb2.SamplingParams
    response_format: _common_pb2.ResponseFormat
    truncates: bool
    store: bool
    background: bool
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, model: _Optional[str] = ..., input: _Optional[_Iterable[_Union[ResponseItem, _Mapping]]] = ..., instructions: _Optional[str] = ..., previous_response_id: _Optional[str] = ..., tools: _Optional[_Iterable[_Union[ResponseTool, _Mapping]]] = ..., tool_choice: _Optional[_Union[_chat_pb2.ToolChoice, str]] = ..., allowed_tools: _Optional[_Iterable[_Union[ToolName, _Mapping]]] = ..., reasoning_effort: _Optional[_Union[_chat_pb2.ReasoningEffort, str]] = ..., sampling: _Optional[_Union[_common_pb2.SamplingParams, _Mapping]] = ..., response_format: _Optional[_Union[_common_pb2.ResponseFormat, _Mapping]] = ..., truncates: _Optional[bool] = ..., store: _Optional[bool] = ..., background: _Optional[bool] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ResponseError(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Response(_message.Message):
    __slots__ = ("id", "model", "created", "completed", "status", "error", "output", "usage", "background", "store", "previous_response_id", "instructions", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    BACKGROUND_FIELD_NUMBER: _ClassVar[int]
    STORE_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_RESPONSE_ID_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTIONS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    id: str
    model: str
    created: int
    completed: int
    status: ResponseStatus
    error: ResponseError
    output: _containers.RepeatedCompositeFieldContainer[ResponseItem]
    usage: _common_pb2.Usage
    background: bool
    store: bool
    previous_response_id: str
    instructions: str
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, id: _Optional[str] = ..., model: _Optional[str] = ..., created: _Optional[int] = ..., completed: _Optional[int] = ..., status: _Optional[_Union[ResponseStatus, str]] = ..., error: _Optional[_Union[ResponseError, _Mapping]] = ..., output: _Optional[_Iterable[_Union[ResponseItem, _Mapping]]] = ..., usage: _Optional[_Union[_common_pb2.Usage, _Mapping]] = ..., background: _Optional[bool] = ..., store: _Optional[bool] = ..., previous_response_id: _Optional[str] = ..., instructions: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ItemEvent(_message.Message):
    __slots__ = ("output_index", "item")
    OUTPUT_INDEX_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    output_index: int
    item: ResponseItem
    def __init__(self, output_index: _Optional[int] = ..., item: _Optional[_Union[ResponseItem, _Mapping]] = ...) -> None: ...

class PartEvent(_message.Message):
    __slots__ = ("item_id", "output_index", "content_index", "text")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_INDEX_FIELD_NUMBER: _ClassVar[int]
    CONTENT_INDEX_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    output_index: int
    content_index: int
    text: str
    def __init__(self, item_id: _Optional[str] = ..., output_index: _Optional[int] = ..., content_index: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class TextEvent(_message.Message):
    __slots__ = ("item_id", "output_index", "content_index", "text", "logprobs")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_INDEX_FIELD_NUMBER: _ClassVar[int]
    CONTENT_INDEX_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    output_index: int
    content_index: int
    text: str
    logprobs: _containers.RepeatedCompositeFieldContainer[TextLogprobs]
    def __init__(self, item_id: _Optional[str] = ..., output_index: _Optional[int] = ..., content_index: _Optional[int] = ..., text: _Optional[str] = ..., logprobs: _Optional[_Iterable[_Union[TextLogprobs, _Mapping]]] = ...) -> None: ...

class ResponseEvent(_message.Message):
    __slots__ = ("sequence_number", "created", "queued", "in_progress", "completed", "incomplete", "failed", "item_added", "item_done", "part_added", "part_done", "reasoning_delta", "reasoning_done", "text_delta", "text_done", "arguments_delta", "arguments_done", "custom_input_delta", "custom_input_done")
    SEQUENCE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    IN_PROGRESS_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    INCOMPLETE_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    ITEM_ADDED_FIELD_NUMBER: _ClassVar[int]
    ITEM_DONE_FIELD_NUMBER: _ClassVar[int]
    PART_ADDED_FIELD_NUMBER: _ClassVar[int]
    PART_DONE_FIELD_NUMBER: _ClassVar[int]
    REASONING_DELTA_FIELD_NUMBER: _ClassVar[int]
    REASONING_DONE_FIELD_NUMBER: _ClassVar[int]
    TEXT_DELTA_FIELD_NUMBER: _ClassVar[int]
    TEXT_DONE_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_DELTA_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_DONE_FIELD_NUMBER: _ClassVar[int]
    CUSTOM_INPUT_DELTA_FIELD_NUMBER: _ClassVar[int]
    CUSTOM_INPUT_DONE_FIELD_NUMBER: _ClassVar[int]
    sequence_number: int
    created: Response
    queued: Response
    in_progress: Response
    completed: Response
    incomplete: Response
    failed: Response
    item_added: ItemEvent
    item_done: ItemEvent
    part_added: PartEvent
    part_done: PartEvent
    reasoning_delta: TextEvent
    reasoning_done: TextEvent
    text_delta: TextEvent
    text_done: TextEvent
    arguments_delta: TextEvent
    arguments_done: TextEvent
    custom_input_delta: TextEvent
    custom_input_done: TextEvent
    def __init__(self, sequence_number: _Optional[int] = ..., created: _Optional[_Union[Response, _Mapping]] = ..., queued: _Optional[_Union[Response, _Mapping]] = ..., in_progress: _Optional[_Union[Response, _Mapping]] = ..., completed: _Optional[_Union[Response, _Mapping]] = ..., incomplete: _Optional[_Union[Response, _Mapping]] = ..., failed: _Optional[_Union[Response, _Mapping]] = ..., item_added: _Optional[_Union[ItemEvent, _Mapping]] = ..., item_done: _Optional[_Union[ItemEvent, _Mapping]] = ..., part_added: _Optional[_Union[PartEvent, _Mapping]] = ..., part_done: _Optional[_Union[PartEvent, _Mapping]] = ..., reasoning_delta: _Optional[_Union[TextEvent, _Mapping]] = ..., reasoning_done: _Optional[_Union[TextEvent, _Mapping]] = ..., text_delta: _Optional[_Union[TextEvent, _Mapping]] = ..., text_done: _Optional[_Union[TextEvent, _Mapping]] = ..., arguments_delta: _Optional[_Union[TextEvent, _Mapping]] = ..., arguments_done: _Optional[_Union[TextEvent, _Mapping]] = ..., custom_input_delta: _Optional[_Union[TextEvent, _Mapping]] = ..., custom_input_done: _Optional[_Union[TextEvent, _Mapping]] = ...) -> None: ...

class CreateResponseRequest(_message.Message):
    __slots__ = ("response",)
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    response: NewResponse
    def __init__(self, response: _Optional[_Union[NewResponse, _Mapping]] = ...) -> None: ...

class CreateResponseResponse(_message.Message):
    __slots__ = ("response",)
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    response: Response
    def __init__(self, response: _Optional[_Union[Response, _Mapping]] = ...) -> None: ...

class StreamResponseRequest(_message.Message):
    __slots__ = ("response",)
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    response: NewResponse
    def __init__(self, response: _Optional[_Union[NewResponse, _Mapping]] = ...) -> None: ...

class StreamResponseResponse(_message.Message):
    __slots__ = ("event",)
    EVENT_FIELD_NUMBER: _ClassVar[int]
    event: ResponseEvent
    def __init__(self, event: _Optional[_Union[ResponseEvent, _Mapping]] = ...) -> None: ...

class GetResponseRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class GetResponseResponse(_message.Message):
    __slots__ = ("response",)
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    response: Response
    def __init__(self, response: _Optional[_Union[Response, _Mapping]] = ...) -> None: ...

class FollowResponseRequest(_message.Message):
    __slots__ = ("id", "starting_after")
    ID_FIELD_NUMBER: _ClassVar[int]
    STARTING_AFTER_FIELD_NUMBER: _ClassVar[int]
    id: str
    starting_after: int
    def __init__(self, id: _Optional[str] = ..., starting_after: _Optional[int] = ...) -> None: ...

class FollowResponseResponse(_message.Message):
    __slots__ = ("event",)
    EVENT_FIELD_NUMBER: _ClassVar[int]
    event: ResponseEvent
    def __init__(self, event: _Optional[_Union[ResponseEvent, _Mapping]] = ...) -> None: ...

class CancelResponseRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class CancelResponseResponse(_message.Message):
    __slots__ = ("response",)
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    response: Response
    def __init__(self, response: _Optional[_Union[Response, _Mapping]] = ...) -> None: ...

class DeleteResponseRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class DeleteResponseResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListInputItemsRequest(_message.Message):
    __slots__ = ("id", "limit", "ascending", "after", "before")
    ID_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    ASCENDING_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    id: str
    limit: int
    ascending: bool
    after: str
    before: str
    def __init__(self, id: _Optional[str] = ..., limit: _Optional[int] = ..., ascending: _Optional[bool] = ..., after: _Optional[str] = ..., before: _Optional[str] = ...) -> None: ...

class ListInputItemsResponse(_message.Message):
    __slots__ = ("items", "has_more")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    HAS_MORE_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[ResponseItem]
    has_more: bool
    def __init__(self, items: _Optional[_Iterable[_Union[ResponseItem, _Mapping]]] = ..., has_more: _Optional[bool] = ...) -> None: ...
