"""The stages of a local start, each shown with the seconds it took."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ray import serve
from ray.serve.context import _get_global_client
from rich.console import Console
from rich.status import Status

from gptoss_ray.checkpoint.hub import resolve_folder
from gptoss_ray.errors import ConfigError, UnavailableError
from gptoss_ray.serving.deploy_watch import read_deploy_state
from gptoss_ray.serving.interrupt import Interruption
from gptoss_ray.serving.local_ray import start_ray
from gptoss_ray.serving.local_session import LocalSession
from gptoss_ray.serving.open_ports import open_ports
from gptoss_ray.serving.serve_file import ServeFile
from gptoss_ray.serving.session_processes import session_processes

POLL_S = 0.2


def start_serving(
    console: Console, session: LocalSession, interruption: Interruption, config_path: str
) -> ServeFile:
    """Start Ray and Serve and load the models of a file; returns it when the server answers.

    Raises:
        ConfigError: The file is wrong, or a port is taken.
        CheckpointError: A checkpoint is corrupt; nothing was started.
        UnavailableError: A model did not start.
        Interrupted: A signal came.
    """
    with _stage(console, "reading the configuration"):
        file = ServeFile.read(config_path)
        file.serving.resolve_api_keys()
        _check_ports_are_free(file)
    with _stage(console, "checking the checkpoint"):
        _check_checkpoints(file)
    with _stage(console, "starting Ray"):
        start_ray(session, _cluster_environment(file))
        interruption.watch()
    with _stage(console, "starting Serve"):
        _start_serve(file)
    with _stage(console, "loading the model") as status:
        _wait_until_running(file, status, interruption)
    for port in open_ports(session_processes(session.session_id)):
        console.print(f"[yellow]open to other hosts:[/] {port}")
    return file


@contextmanager
def _stage(console: Console, title: str) -> Iterator[Status]:
    started_at = time.monotonic()
    with console.status(title) as status:
        yield status
    console.print(f"[green]✓[/] {title} [dim]{time.monotonic() - started_at:.1f} s[/]")


def _check_ports_are_free(file: ServeFile) -> None:
    http, grpc = file.schema.http_options, file.schema.grpc_options
    for option, port in (("http_options.port", http.port), ("grpc_options.port", grpc.port)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((http.host, port))
            except OSError as error:
                raise ConfigError(
                    f"port {port} on {http.host} cannot be used ({error.strerror}); stop what uses it, or "
                    f"set another {option} in {file.path}.",
                    param=option,
                ) from error


def _check_checkpoints(file: ServeFile) -> None:
    """Refuse a corrupt checkpoint before anything starts: CheckpointError of its first defect."""
    # Imports torch, whose seconds should show as this stage's.
    from gptoss_ray.checkpoint.verify import verify_checkpoint  # noqa: PLC0415

    for model in file.serving.models:
        for defect in verify_checkpoint(resolve_folder(model.checkpoint), fast=True):
            raise defect.to_error()


def _cluster_environment(file: ServeFile) -> dict[str, str]:
    """Return the environment that the file asks for its proxies; here the whole cluster has it.

    Given to Ray's processes from the start, it costs no new worker process, as a runtime_env would.
    """
    options = file.schema.controller_options
    variables: dict[str, str] = ((options and options.runtime_env) or {}).get("env_vars", {})
    return variables


def _start_serve(file: ServeFile) -> None:
    """Start Serve's controller and proxies with the file's options, and submit its application."""
    schema = file.schema
    serve.start(
        proxy_location=schema.proxy_location,
        http_options=schema.http_options.model_dump(),
        grpc_options=schema.grpc_options.model_dump(),
        logging_config=schema.logging_config,
    )
    # The way in which `serve run` submits a file; there is no public one.
    client = _get_global_client()
    assert client is not None, "serve.start has connected"
    client.deploy_apps(schema, _blocking=False)


def _wait_until_running(file: ServeFile, status: Status, interruption: Interruption) -> None:
    """Show how far the ranks are; UnavailableError with the cause where a replica does not start."""
    while True:
        interruption.check()
        state = read_deploy_state(file.schema.applications[0].name)
        if state.failure is not None:
            raise UnavailableError(f"{file.path}: the model did not start: {state.failure}")
        if state.is_running:
            return
        for rank_name, progress in state.progress.items():
            model = rank_name.partition("#")[0]
            status.update(f"{progress.stage} {model} {progress.fraction:.0%}")
        time.sleep(POLL_S)
