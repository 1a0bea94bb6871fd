"""`gptoss-ray serve`: from a config file to an answering server on this machine, and back to nothing."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import httpx
import psutil
from rich.console import Console

from gptoss_ray.errors import CheckpointError, ConfigError
from gptoss_ray.http_client import bearer
from gptoss_ray.serving.interrupt import Interrupted, Interruption
from gptoss_ray.serving.local_session import LocalSession
from gptoss_ray.serving.proxy_choice import ProxyChoice, find_proxy_binary, proxy_environment
from gptoss_ray.serving.sample_question import ask_sample_question

if TYPE_CHECKING:
    from gptoss_ray.serving.serve_file import ServeFile

_ANSWER_TIMEOUT_S = 120.0


def serve(config_path: str, proxy: ProxyChoice) -> int:
    """Serve the models of a config file until Ctrl-C or SIGTERM; returns the exit code.

    Raises:
        ConfigError: The file is wrong, a port is taken, or the proxy is not to be had here.
        CheckpointError: A checkpoint is corrupt; nothing was started.
        UnavailableError: A model did not start.
    """
    console = Console(soft_wrap=True)
    session = _start_session(proxy)
    # Ray reads its environment on import: these come after the session that sets it.
    from gptoss_ray.serving.local_ray import stop_ray  # noqa: PLC0415
    from gptoss_ray.serving.startup import start_serving  # noqa: PLC0415

    interruption = Interruption()
    interruption.watch()
    keeps_logs = False
    try:
        _announce(console, start_serving(console, session, interruption, config_path))
        interruption.wait()
    except Interrupted:
        return 0
    except Exception as error:
        if interruption.is_requested:
            return 0
        keeps_logs = not isinstance(error, ConfigError | CheckpointError)
        raise
    finally:
        interruption.ignore()
        with console.status("stopping"):
            stop_ray(session)
        if keeps_logs:
            console.print(f"logs: {session.logs}")
        else:
            session.remove()
        console.print("stopped")


def _start_session(proxy: ProxyChoice) -> LocalSession:
    """Set the environment that Ray reads on import, and so before any configuration file is read."""
    binary = find_proxy_binary(proxy)
    session = LocalSession()
    try:
        os.environ.update(proxy_environment(binary, session.folder))
    except ConfigError:
        session.remove()
        raise
    return session


def _announce(console: Console, file: ServeFile) -> None:
    """Print the addresses and a sample question with its answer."""
    http = file.schema.http_options
    console.print(f"ready in {time.time() - psutil.Process().create_time():.1f} s")
    if file.serving.page:
        console.print(f"page  {file.base_url}/")
    console.print(f"HTTP  {file.base_url}/v1")
    console.print(f"gRPC  {http.host}:{file.schema.grpc_options.port}")
    keys = file.serving.resolve_api_keys()
    # Of a key in a file only the hash is known here, and nobody can ask with that.
    if keys or not file.serving.needs_key:
        with httpx.Client(base_url=file.base_url, verify=file.tls, timeout=_ANSWER_TIMEOUT_S) as client:
            client.headers.update(bearer(keys[0] if keys else None))
            ask_sample_question(console, client, file.serving.models[0].name)
    console.print("Ctrl-C stops the server.")
