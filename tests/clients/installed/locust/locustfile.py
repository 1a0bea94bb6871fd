"""Users who ask for sums, whole and streamed, until so many have been answered; a wrong sum is a failure."""

import json
import os

import gevent
from locust import HttpUser, task
from locust.exception import StopUser

FIELDS = {"model": os.environ["MODEL"], "temperature": 0}
HEADERS = {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
NUM_REQUESTS = int(os.environ["NUM_REQUESTS"])
NUM_USERS = int(os.environ["NUM_USERS"])
EXPECTED = os.environ["EXPECTED"]


class Asker(HttpUser):
    """Asks the same question over and over."""

    num_asked = 0
    num_stopped = 0

    def ask(self, name, read, **fields):
        if Asker.num_asked >= NUM_REQUESTS:
            raise StopUser
        Asker.num_asked += 1
        body = FIELDS | {"messages": [{"role": "user", "content": "17 + 25"}]} | fields
        with self.client.post(
            "/v1/chat/completions", name=name, json=body, headers=HEADERS, catch_response=True, **read
        ) as response:
            content = self.content(response)
            if content == EXPECTED:
                response.success()
            else:
                response.failure(f"answered {content!r}")

    def on_stop(self):
        Asker.num_stopped += 1
        if Asker.num_stopped == NUM_USERS:
            # Not from here: it ends this very greenlet.
            gevent.spawn(self.environment.runner.quit)

    @task
    def whole(self):
        self.ask("whole", {})

    @task
    def streamed(self):
        self.ask("streamed", {"stream": True}, stream=True)

    @staticmethod
    def content(response):
        if response.request_meta["name"] == "whole":
            return response.json()["choices"][0]["message"]["content"]
        events = (line[6:] for line in response.iter_lines(decode_unicode=True) if line.startswith("data: {"))
        choices = (choice for event in events for choice in json.loads(event)["choices"])
        return "".join(choice["delta"].get("content") or "" for choice in choices)
