import pytest

from gptoss_ray.errors import InvalidRequestError
from gptoss_ray.serving.responses.request import ResponseRequest
from gptoss_ray.serving.responses.tool_choice import ToolRef
from gptoss_ray.serving.responses.tool_table import MAX_NAME_LENGTH, ToolTable


def function(name, **fields):
    return {"type": "function", "name": name, **fields}


def namespace(name, *tools):
    return {"type": "namespace", "name": name, "tools": list(tools)}


def table(*tools):
    request = ResponseRequest.model_validate({"model": "m", "input": "", "tools": list(tools)})
    return ToolTable(request.tools, 16)


def shown(tools):
    return [tool.definition.function.name for tool in tools.offered]


def test_tools_of_unknown_types_are_skipped_wherever_they_stand():
    tools = table({"type": "web_search"}, function("f"), namespace("n", {"type": "mcp"}, function("g")))
    assert shown(tools) == ["f", "n__g"]
    assert [tool.path for tool in tools.offered] == ["tools[1]", "tools[2].tools[1]"]


def test_every_shown_name_leads_back_to_its_tool_and_to_no_other():
    tools = table(
        namespace("a", function("b__c"), function("b")),
        namespace("a__b", function("c")),
        function("a__b__c"),
        function("a__b"),
        function("b"),
    )
    assert len(set(shown(tools))) == 6
    for tool in tools.offered:
        name = tool.definition.function.name
        assert tools.called(name) is tool
        assert tools.shown_name(tool.ref) == name
    assert tools.shown_name(ToolRef("a__b")) == "a__b"


def test_names_do_not_change_with_the_order_of_tools():
    tools = [
        namespace("a", function("b"), function("b__c")),
        namespace("a__b", function("c")),
        function("a__b"),
    ]
    one, other = table(*tools), table(*reversed(tools))
    for ref in (ToolRef("b", "a"), ToolRef("b__c", "a"), ToolRef("c", "a__b")):
        assert one.shown_name(ref) == other.shown_name(ref)
    assert one.shown_name(ToolRef("b", "a")) != "a__b"


def test_a_name_too_long_for_a_header_is_cut_and_stays_unlike_others():
    long = "n" * 60
    tools = table(namespace(long, function("f" * 60), function("f" * 59 + "g")))
    names = shown(tools)
    assert len(set(names)) == 2
    assert all(len(name) <= MAX_NAME_LENGTH for name in names)
    # Also where it is no longer offered.
    assert table().shown_name(ToolRef("f" * 60, long)) == names[0]


def test_a_bare_name_means_the_one_tool_that_has_it():
    tools = table(namespace("a", function("f"), function("g")), namespace("b", function("g")))
    assert tools.called("f").ref == ToolRef("f", "a")
    assert tools.called("g") is None
    assert tools.called("h") is None


@pytest.mark.parametrize("name", ["", "a b", "<|end|>", "é", "x" * 65])
def test_names_that_cannot_stand_in_a_prompt_are_named(name):
    for tools, param in (
        ([function(name)], "tools[0].name"),
        ([namespace("n", function(name))], "tools[0].tools[0].name"),
        ([namespace(name, function("f"))], "tools[0].name"),
    ):
        with pytest.raises(InvalidRequestError) as caught:
            table(*tools)
        assert caught.value.param == param


def test_tools_in_namespaces_count():
    table(*[function(f"f{number}") for number in range(16)])
    with pytest.raises(InvalidRequestError) as caught:
        table(namespace("n", *[function(f"f{number}") for number in range(17)]))
    assert caught.value.param == "tools"
