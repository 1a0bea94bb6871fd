"""A server over scripted engines in a process of its own: `python -m gptoss_ray.serving.scripted_server`.

Ray reads its environment when it is imported, so one process can serve in one mode only. What to serve
comes as a line of JSON on stdin (a `ScriptedServer`). A line of JSON on stdout tells that the models are
loaded, or the error because of which they are not. The end of stdin, or SIGTERM, ends the server.
"""

from __future__ import annotations

import json
import sys

from rich.console import Console

from gptoss_ray.errors import GptossError
from gptoss_ray.serving.interrupt import Interrupted, Interruption
from gptoss_ray.serving.local_session import LocalSession
from gptoss_ray.serving.scripted_options import ScriptedServer


def main() -> int:
    """Serve until stdin ends; returns the exit code."""
    # Ray prints to stdout as it likes.
    answers, sys.stdout = sys.stdout, sys.stderr
    server = ScriptedServer.model_validate_json(sys.stdin.readline())
    session = LocalSession()
    # Ray reads its environment on import: these come after the session that sets it.
    from gptoss_ray.serving.local_ray import stop_ray  # noqa: PLC0415
    from gptoss_ray.serving.scripted_app import scripted_file  # noqa: PLC0415
    from gptoss_ray.serving.startup import deploy  # noqa: PLC0415

    interruption = Interruption()
    interruption.watch()
    try:
        deploy(Console(stderr=True), session, interruption, scripted_file(server))
        print(json.dumps({"error": None}), file=answers, flush=True)
        sys.stdin.read()
    except Interrupted:
        return 0
    except Exception as error:
        # Native code that is interrupted may turn it into an error of its own.
        if interruption.is_requested:
            return 0
        if not isinstance(error, GptossError):
            raise
        print(json.dumps({"error": str(error)}), file=answers, flush=True)
        return 1
    finally:
        interruption.ignore()
        stop_ray(session)
        session.remove()
    return 0


if __name__ == "__main__":
    sys.exit(main())
