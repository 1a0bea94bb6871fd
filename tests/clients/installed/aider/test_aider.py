"""aider, over chat completions by LiteLLM: it edits a file of a repository and commits."""

import subprocess
import sys

import pytest

from tests.support.harmony_markup import final, reasoned

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 13), reason="aider needs Python below 3.13")

BEFORE = "def add(a, b):\n    return a - b\n"
EDIT = """sums.py
```python
<<<<<<< SEARCH
$line
=======
    return a + b
>>>>>>> REPLACE
```
"""


@pytest.fixture
def repository(client):
    folder = client.work / "repository"
    folder.mkdir()
    (folder / "sums.py").write_text(BEFORE)
    for command in (
        ("init", "--quiet"),
        ("config", "user.name", "Tester"),
        ("config", "user.email", "tester@example.invalid"),
        ("add", "."),
        ("commit", "--quiet", "--message", "first"),
    ):
        git(folder, *command)
    return folder


def git(folder, *command):
    return subprocess.run(("git", *command), cwd=folder, check=True, capture_output=True, text=True).stdout


def run(client, ruled, repository, *options):
    done = client.run(
        "aider",
        *("--model", f"openai/{ruled.model}", "--edit-format", "diff", "--yes-always", "--no-pretty"),
        *("--no-analytics", "--no-check-update", "--no-show-release-notes", "--no-show-model-warnings"),
        *("--no-gitignore", "--message", "Correct the sum.", *options, "sums.py"),
        server=ruled,
        extra={"OPENAI_API_BASE": f"{ruled.url}/v1"},
        cwd=repository,
    )
    return done.stdout


def test_an_edit_is_applied_and_committed_in_the_words_of_the_model(client, ruled, repository):
    ruled.say(
        (r"commit message.*\+    return a \+ b", final("fix: add adds")),
        (r"(?P<line>    return a - b).*Correct the sum", reasoned("It subtracts.", EDIT)),
    )
    output = run(client, ruled, repository)
    assert (repository / "sums.py").read_text() == "def add(a, b):\n    return a + b\n"
    assert git(repository, "log", "--format=%s").splitlines() == ["fix: add adds", "first"]
    # The reasoning is shown apart from the answer.
    assert "It subtracts." in output.split("ANSWER")[0]


def test_an_edit_that_does_not_fit_is_told_to_the_model_which_corrects_it(client, ruled, repository):
    ruled.say(
        ("commit message", final("fix: at the second attempt")),
        (
            r"SEARCH/REPLACE block failed to match.*(?P<other>return nonsense)",
            final(EDIT.replace("$line", "    return a - b")),
        ),
        ("Correct the sum", final(EDIT.replace("$line", "    return nonsense"))),
    )
    run(client, ruled, repository, "--no-stream")
    assert (repository / "sums.py").read_text() == "def add(a, b):\n    return a + b\n"
    assert git(repository, "log", "--format=%s").splitlines() == ["fix: at the second attempt", "first"]
