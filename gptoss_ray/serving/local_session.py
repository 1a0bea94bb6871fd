"""What one local run leaves on the machine while it lives: a private folder, a token, a mark on processes."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

from gptoss_ray.serving.ray_token import write_token
from gptoss_ray.serving.session_processes import SESSION_VARIABLE


class LocalSession:
    """Sets the environment of a local Ray. Ray reads it on import, so this comes before any import of ray.

    Attributes:
        session_id: The mark in the environment of all processes of the session.
        folder: Private folder with the token, the sockets and Ray's logs.
    """

    def __init__(self) -> None:
        assert "ray" not in sys.modules, "ray was imported too early to require its token"
        self.session_id = secrets.token_hex(8)
        self.folder = Path(tempfile.mkdtemp(prefix="gptoss-ray-"))
        os.environ[SESSION_VARIABLE] = self.session_id
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        # Ray replaces 127.0.0.1 by the host's address unless clusters are "not supported", its default off
        # Linux. This keeps every port of Ray core on loopback.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        # A process that answers one that is lost stands still until Ray has looked whether that one lives: by
        # default, once a second.
        os.environ.setdefault("RAY_core_worker_rpc_server_reconnect_timeout_base_s", "0")
        os.environ.setdefault("RAY_grpc_client_check_connection_status_interval_milliseconds", "100")
        if "RAY_AUTH_TOKEN" not in os.environ and "RAY_AUTH_TOKEN_PATH" not in os.environ:
            os.environ["RAY_AUTH_TOKEN_PATH"] = str(self._write_token())

    @property
    def logs(self) -> Path:
        """The folder with the logs of Ray, Serve and the ranks."""
        return self.folder / "session_latest" / "logs"

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write_token(self) -> Path:
        path = self.folder / "auth_token"
        write_token(path)
        return path
