"""LangChain for Python: each function asks the server through ChatOpenAI."""

import json
import os
import sys
from typing import Literal

from langchain_core.messages import ToolMessage, convert_to_messages
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

CHAT = ChatOpenAI(model=os.environ["MODEL"], temperature=0, max_retries=0, stream_usage=True)


def _facts(message):
    usage = message.usage_metadata
    return {
        "content": message.content,
        "finish_reason": message.response_metadata["finish_reason"],
        "prompt_tokens": usage["input_tokens"],
        "completion_tokens": usage["output_tokens"],
        "reasoning_tokens": usage["output_token_details"]["reasoning"],
    }


def whole(messages):
    return _facts(CHAT.invoke(messages))


def streamed(messages):
    answer, *others = CHAT.stream(messages)
    for chunk in others:
        answer += chunk
    return _facts(answer)


def logprobs(messages):
    entries = CHAT.bind(logprobs=True).invoke(messages).response_metadata["logprobs"]["content"]
    return [[entry["token"], entry["logprob"]] for entry in entries]


def tool_loop(messages, tool, result):
    """Give `result` back for every call, until there is none."""
    model, history, calls = CHAT.bind_tools([tool]), convert_to_messages(messages), []
    while (answer := model.invoke(history)).tool_calls:
        history.append(answer)
        for call in answer.tool_calls:
            calls.append({"name": call["name"], "arguments": call["args"]})
            history.append(ToolMessage(result, tool_call_id=call["id"]))
    return {"calls": calls, "content": answer.content}


class City(BaseModel):
    """The only answer that is allowed."""

    city: Literal["Bern"]


def parsed(messages):
    return CHAT.with_structured_output(City, method="json_schema").invoke(messages).model_dump()


def batch(chats):
    return [answer.content for answer in CHAT.batch(chats)]


def completion(prompt):
    model = OpenAI(model=os.environ["MODEL"], temperature=0, max_retries=0, max_tokens=8)
    return {"whole": model.invoke(prompt), "streamed": "".join(model.stream(prompt))}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*map(json.loads, sys.argv[2:]))))
