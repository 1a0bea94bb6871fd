"""What OpenAI's compatibility test asks of a server of gpt-oss, written anew: calls, reasoning, usage."""

import pytest


def tool(name, description, **types):
    schema = {"type": "object", "properties": {field: {"type": each} for field, each in types.items()}}
    return {"name": name, "description": description, "parameters": schema | {"required": list(types)}}


WEATHER = tool("get_weather", "Get the weather.", city="string")
PRICE = tool("get_price", "Get the price.", product="string")
TABLE = tool("book_table", "Book a table.", people="integer", day="string")
FLIGHT = tool("find_flight", "Find a flight.", origin="string", destination="string")

CASES = (
    ("What is the weather in Paris?", (WEATHER,), {"city": "Paris"}),
    ("Get the weather in Tokyo.", (PRICE, WEATHER), {"city": "Tokyo"}),
    ("Show me the weather in Lima", (WEATHER, PRICE), {"city": "Lima"}),
    ("What is the price of the lamp?", (PRICE,), {"product": "lamp"}),
    ("Find the price of bread", (TABLE, PRICE), {"product": "bread"}),
    ('What is the price about "tea"?', (PRICE, TABLE), {"product": "tea"}),
    ("Book a table for 4 people on Monday.", (TABLE,), {"people": 4, "day": "Monday"}),
    ("Book a table for 2 people on Friday", (TABLE, FLIGHT), {"people": 2, "day": "Friday"}),
    ("Find the flight from Paris to Rome.", (FLIGHT,), {"origin": "Paris", "destination": "Rome"}),
    ("Find a flight from Oslo to Madrid", (WEATHER, FLIGHT), {"origin": "Oslo", "destination": "Madrid"}),
)
NAMES = {"weather": WEATHER, "price": PRICE, "table": TABLE, "flight": FLIGHT}
RESULT = '{"temperature": 21}'
ANSWER = "The temperature is 21."


@pytest.fixture(scope="module")
def facts():
    """What each way of asking has shown, once it was asked."""
    return {}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", ["chat", "responses"])
def test_every_case_has_its_call_its_answer_reasoning_and_usage(client, demo, facts, api, stream):
    cases = [{"question": question, "tools": tools, "result": RESULT} for question, tools, _ in CASES]
    found = client.ask(demo, api, stream, cases)
    for (question, _, arguments), case in zip(CASES, found, strict=True):
        (called,) = (each["name"] for noun, each in NAMES.items() if noun in question)
        assert case["call"] == {"name": called, "arguments": arguments}
        assert case["answer"] == ANSWER
        assert all(case["reasoning"])
        assert all(usage["total"] == usage["input"] + usage["output"] for usage in case["usage"])
        assert all(0 < usage["reasoning"] < usage["output"] for usage in case["usage"])
    facts[api, stream] = found


def test_both_apis_whole_and_streamed_tell_the_same(facts):
    first, *others = facts.values()
    assert len(others) == 3
    assert all(other == first for other in others)
