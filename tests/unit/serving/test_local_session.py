"""Ray reads its environment on import, and this process has long imported it: a process of its own looks."""

import json
import os
import subprocess
import sys

LOOK = """
import json, os, stat
from gptoss_ray.serving.local_session import LocalSession
session = LocalSession()
mode = lambda path: stat.S_IMODE(os.stat(path).st_mode)
token = os.environ["RAY_AUTH_TOKEN_PATH"]
print(json.dumps({"auth": os.environ["RAY_AUTH_MODE"], "token": mode(token), "folder": mode(session.folder),
                  "length": len(open(token).read()),
                  "reconnect_s": os.environ["RAY_core_worker_rpc_server_reconnect_timeout_base_s"]}))
session.remove()
"""


def test_ray_asks_for_a_token_that_nobody_else_can_read_whatever_the_environment_says():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    for own in ({}, {"RAY_AUTH_MODE": "disabled"}):
        found = subprocess.run(
            [sys.executable, "-c", f"import os; os.umask(0)\n{LOOK}"],
            env=environment | own,
            capture_output=True,
            text=True,
            check=True,
        )
        seen = json.loads(found.stdout)
        assert seen.pop("reconnect_s") == "0"
        assert seen == {"auth": "token", "token": 0o600, "folder": 0o700, "length": 64}
