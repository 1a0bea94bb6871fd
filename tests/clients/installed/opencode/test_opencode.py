"""opencode, over chat completions by the AI SDK that it brings: its tools run here."""

import json

import pytest

from tests.support.chat_facts import count
from tests.support.harmony_markup import asked, call, final, reasoned, result_of

TASK = "Put 4711 into made.txt."
WRITES = {"command": "echo 4711 > made.txt && cat made.txt", "description": "Writes the file"}
# It asks for a title of the session as well.
TITLE = ("title", final("A file"))


@pytest.fixture
def project(client, ruled):
    """A folder of code with opencode's configuration."""
    folder = client.work / "project"
    folder.mkdir()
    model = {"name": "gpt-oss-20b", "reasoning": True, "tool_call": True}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "gptoss_ray",
        "options": {"baseURL": f"{ruled.url}/v1", "apiKey": "{env:OPENAI_API_KEY}"},
        "models": {ruled.model: model | {"limit": {"context": 131_072, "output": 8192}}},
    }
    configuration = {
        "autoupdate": False,
        "share": "disabled",
        "provider": {"gptoss": provider},
        "model": f"gptoss/{ruled.model}",
        "permission": {"bash": "allow", "edit": "allow"},
    }
    (folder / "opencode.json").write_text(json.dumps(configuration))
    return folder


def run(client, ruled, project, task):
    """Return the events of a run."""
    extra = {"OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_LSP_DOWNLOAD": "1"}
    done = client.run("opencode", "run", "--format", "json", task, server=ruled, extra=extra, cwd=project)
    return [json.loads(line) for line in done.stdout.splitlines()]


def parts(events, kind):
    return [event["part"] for event in events if event["type"] == kind]


def test_a_command_is_run_and_its_output_told_with_the_thought_before_it(client, ruled, project):
    ruled.say(
        (result_of("A shell does it.", "bash", **WRITES), final("It says $told")),
        (asked(TASK, "bash"), call("A shell does it.", "bash", **WRITES)),
        TITLE,
    )
    events = run(client, ruled, project, TASK)
    (tool,) = parts(events, "tool_use")
    assert (tool["tool"], tool["state"]["input"], tool["state"]["output"]) == ("bash", WRITES, "4711\n")
    assert [part["text"] for part in parts(events, "text")] == ["It says 4711\n"]
    assert (project / "made.txt").read_text() == "4711\n"


def test_a_file_is_read_and_edited_in_two_calls(client, ruled, project):
    file = project / "sums.py"
    file.write_text("def add(a, b):\n    return a - b\n")
    read = {"filePath": str(file)}
    edit = {"filePath": str(file), "oldString": "a - b", "newString": "a + b"}
    ruled.say(
        (result_of("It subtracts.", "edit", **edit), final("Corrected.")),
        (result_of("I look.", "read", **read), call("It subtracts.", "edit", **edit)),
        (asked("Correct the sum", "read"), call("I look.", "read", **read)),
        TITLE,
    )
    events = run(client, ruled, project, "Correct the sum.")
    assert [part["tool"] for part in parts(events, "tool_use")] == ["read", "edit"]
    assert [part["text"] for part in parts(events, "text")] == ["Corrected."]
    assert file.read_text() == "def add(a, b):\n    return a + b\n"


def test_the_tokens_of_each_step_are_those_that_the_server_counts(client, ruled, project):
    output = reasoned("I see.", "Done.")
    ruled.say(TITLE, (TASK, output))
    (step,) = parts(run(client, ruled, project, TASK), "step_finish")
    tokens = step["tokens"]
    assert (step["reason"], tokens["reasoning"]) == ("stop", count(ruled, prompt="I see."))
    assert tokens["output"] + tokens["reasoning"] == count(ruled, prompt=output)
    assert tokens["total"] == tokens["input"] + count(ruled, prompt=output)
