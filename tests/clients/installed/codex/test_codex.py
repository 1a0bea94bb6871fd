"""Codex with the configuration of the README, over the Responses API: its commands run here."""

import json
import re
from urllib.parse import urlsplit

import pytest

from tests.support.chat_facts import count
from tests.support.harmony_markup import asked, call, final, reasoned, result_of
from tests.support.readme import readme_example

TASK = "Put 4711 into made.txt."
WRITES = {"cmd": "echo 4711 > made.txt && cat made.txt"}
THOUGHT = "A shell does it."


@pytest.fixture
def codex(client, ruled):
    """Return a run of `codex exec`: its events by type, in a folder that is kept from run to run."""
    home, folder = client.work / "codex", client.work / "project"
    home.mkdir()
    folder.mkdir()
    ports = {"http_port": urlsplit(ruled.url).port, "grpc_port": 0}
    (home / "config.toml").write_text(readme_example("toml", "wire_api", **ports))

    def run(*arguments, key=ruled.api_key, check=True):
        done = client.run(
            *("codex", "exec", "--json", "--skip-git-repo-check"),
            *("--dangerously-bypass-approvals-and-sandbox", *arguments),
            extra={"CODEX_HOME": str(home), "GPTOSS_API_KEY": key},
            cwd=folder,
            check=check,
        )
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    run.folder = folder
    return run


def items(events, kind):
    """Return the completed items of a kind."""
    found = (event["item"] for event in events if event["type"] == "item.completed")
    return [item for item in found if item["type"] == kind]


def messages(events):
    return [item["text"] for item in items(events, "agent_message")]


def test_a_command_is_run_and_its_output_told_with_the_thought_before_it(codex, ruled):
    ruled.say(
        (result_of(THOUGHT, "exec_command", **WRITES), final("It says: $told")),
        (asked(TASK, "exec_command"), call(THOUGHT, "exec_command", **WRITES)),
    )
    events = codex(TASK)
    (command,) = items(events, "command_execution")
    assert (command["aggregated_output"], command["exit_code"]) == ("4711\n", 0)
    (message,) = messages(events)
    assert message.startswith("It says: ")
    assert message.endswith("Output:\n4711\n")
    assert (codex.folder / "made.txt").read_text() == "4711\n"


def test_two_commands_follow_each_other_with_all_that_was_thought(codex, ruled):
    first, second = {"cmd": "echo one > made.txt"}, {"cmd": "sed -i s/one/two/ made.txt"}
    both = (
        re.escape(call("First.", "exec_command", **first))
        + ".*"
        + result_of("Second.", "exec_command", **second)
    )
    ruled.say(
        (both, final("Done.")),
        (result_of("First.", "exec_command", **first), call("Second.", "exec_command", **second)),
        (asked(TASK, "exec_command"), call("First.", "exec_command", **first)),
    )
    assert messages(codex(TASK)) == ["Done."]
    assert (codex.folder / "made.txt").read_text() == "two\n"


def test_a_session_is_resumed_with_what_was_said_before(codex, ruled):
    ruled.say(
        (r"Remember 4711\..*<\|channel\|>final<\|message\|>Noted\.<\|end\|>.*Which number\?", final("4711")),
        (r"Remember 4711\.[^<]*<\|end\|><\|start\|>assistant$", final("Noted.")),
    )
    assert messages(codex("Remember 4711.")) == ["Noted."]
    assert messages(codex("resume", "--last", "Which number?")) == ["4711"]


def test_a_call_of_a_namespaced_tool_reaches_that_tool(codex, ruled):
    function, target = "multi_agent_v1__wait_agent", {"targets": ["nobody"]}
    ruled.say(
        (result_of(THOUGHT, function, **target), final("It says: $told")),
        (asked(TASK, function), call(THOUGHT, function, **target)),
    )
    (message,) = messages(codex(TASK))
    assert message.startswith("It says: invalid agent id nobody")


def test_the_tokens_of_a_turn_are_those_that_the_server_counts(codex, ruled):
    output = reasoned("I see.", "Done.")
    ruled.say((TASK, output))
    events = codex(TASK)
    (turn,) = (event for event in events if event["type"] == "turn.completed")
    assert turn["usage"]["output_tokens"] == count(ruled, prompt=output)
    assert turn["usage"]["reasoning_output_tokens"] == count(ruled, prompt="I see.")
    assert messages(events) == ["Done."]


@pytest.mark.parametrize(
    ("key", "words"), [("wrong", "The API key is not valid here."), (None, "No rule fits a prompt")]
)
def test_a_refusal_is_told_in_the_words_of_the_server(codex, ruled, key, words):
    events = codex(TASK, key=key or ruled.api_key, check=False)
    (failure,) = (event for event in events if event["type"] == "turn.failed")
    assert words in failure["error"]["message"]
    assert not messages(events)
