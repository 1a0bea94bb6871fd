"""A client of `client_environments.py` at work: its processes, and what they may reach."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.client_environments import ClientEnvironment
from tests.support.client_servers import Server

TIMEOUT_S = 600

_QUIET = {
    "DO_NOT_TRACK": "1",
    "DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
}
# Nobody is there: what a client that heeds proxies asks of another host fails at once.
_NO_PROXY = {
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9"),
    **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost"),
}


@dataclass(frozen=True)
class InstalledClient:
    """Runs a client's programs with nothing of this machine's settings.

    Attributes:
        work: Home and working folder of the processes.
    """

    environment: ClientEnvironment
    work: Path

    def variables(self, server: Server | None = None) -> dict[str, str]:
        """Return the environment variables of a process; those of a server are the ones that SDKs read."""
        folders = (*map(str, self.environment.programs), os.environ["PATH"])
        variables = {"PATH": os.pathsep.join(folders), "HOME": str(self.work), "LANG": "C.UTF-8"}
        if server is not None:
            variables |= {
                "OPENAI_BASE_URL": f"{server.url}/v1",
                "OPENAI_API_KEY": server.api_key,
                "MODEL": server.model,
            }
        return variables | _QUIET | _NO_PROXY

    def run(
        self,
        *command: str,
        server: Server | None = None,
        extra: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end, which has to be a good one if `check` says so."""
        done = subprocess.run(
            command,
            env=self.variables(server) | dict(extra or {}),
            cwd=cwd or self.work,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done

    def ask(self, server: Server, function: str, *arguments: Any) -> Any:
        """Call a function of the script in the client's folder; return what it returns, through JSON."""
        texts = map(json.dumps, arguments)
        done = self.run(*self.environment.script(), function, *texts, server=server)
        return json.loads(done.stdout.splitlines()[-1])
