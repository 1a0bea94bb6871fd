"""locust: users side by side, who read what they are answered."""

import json
from pathlib import Path

import pytest

from tests.support.chat_facts import SUM_ANSWER

NUM_REQUESTS, NUM_USERS = 40, 4
LOCUSTFILE = Path(__file__).parent / "locustfile.py"


@pytest.fixture
def load(client, demo):
    """Return a run with several users: its exit code and its statistics by name."""

    def run(expected):
        done = client.run(
            *("locust", "--headless", "--locustfile", str(LOCUSTFILE), "--host", demo.url),
            *("--users", str(NUM_USERS), "--spawn-rate", str(NUM_USERS), "--json", "--skip-log"),
            server=demo,
            extra={
                "NUM_REQUESTS": str(NUM_REQUESTS),
                "NUM_USERS": str(NUM_USERS),
                "EXPECTED": expected,
            },
            check=False,
        )
        assert done.stdout, done.stderr
        return done.returncode, {entry["name"]: entry for entry in json.loads(done.stdout)}

    return run


def test_every_user_is_answered_rightly_whole_and_streamed(load):
    exit_code, statistics = load(SUM_ANSWER)
    assert exit_code == 0
    assert set(statistics) == {"whole", "streamed"}
    assert sum(entry["num_requests"] for entry in statistics.values()) == NUM_REQUESTS
    assert all(entry["num_failures"] == 0 for entry in statistics.values())


def test_a_wrong_answer_would_be_counted_as_a_failure(load):
    exit_code, statistics = load("17 + 25 = 43.")
    assert exit_code == 1
    assert all(entry["num_failures"] == entry["num_requests"] > 0 for entry in statistics.values())
