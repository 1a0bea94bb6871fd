"""A server over scripted engines, started in a process of its own and ended with a block."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from gptoss_ray.errors import UnavailableError
from gptoss_ray.serving.scripted_options import ScriptedServer


@contextmanager
def scripted_process(server: ScriptedServer, environment: Mapping[str, str]) -> Iterator[None]:
    """Serve until the block ends; stages and warnings of the start go to stderr.

    Args:
        server: Where and what.
        environment: Variables that Serve's mode asks for.

    Raises:
        UnavailableError: It did not start.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "gptoss_ray.serving.scripted_server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        # Ctrl-C is for this process, which then ends the server.
        start_new_session=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(server.model_dump_json() + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            if not answer:
                raise UnavailableError("the server over scripted engines did not start; see what it says")
            if (error := json.loads(answer)["error"]) is not None:
                raise UnavailableError(error)
            yield
        finally:
            process.terminate()
            process.wait()
