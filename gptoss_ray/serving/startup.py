"""The stages of a local start, each shown with the seconds it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import httpx
from ray import serve
from ray.serve.context import _get_global_client
from rich.console import Console
from rich.status import Status

from gptoss_ray.errors import UnavailableError
from gptoss_ray.ranks.cluster_nodes import free_cluster_nodes, this_machine
from gptoss_ray.ranks.load_progress import LoadProgress
from gptoss_ray.serving.bind_address import GRPC_HOST_VARIABLE
from gptoss_ray.serving.deploy_watch import read_deploy_state
from gptoss_ray.serving.free_ports import LOOPBACK
from gptoss_ray.serving.haproxy import haproxy_hosts, is_haproxy_on
from gptoss_ray.serving.interrupt import Interruption
from gptoss_ray.serving.local_ray import start_ray
from gptoss_ray.serving.local_session import LocalSession
from gptoss_ray.serving.open_ports import open_ports
from gptoss_ray.serving.preflight import (
    check_checkpoint,
    check_hosts,
    check_keys,
    check_memory,
    check_placement,
    check_ports,
    check_tls,
    check_tracing,
)
from gptoss_ray.serving.serve_file import ServeFile
from gptoss_ray.serving.session_processes import session_processes

POLL_S = 0.2

_MAX_SHOWN_RANKS = 4
_PROXY_PATIENCE_S = 60.0


def start_serving(
    console: Console, session: LocalSession, interruption: Interruption, config_path: str
) -> ServeFile:
    """Start Ray and Serve and load the models of a file; returns it when the server answers.

    Raises:
        ConfigError: The file is wrong, a port is taken, or this machine lacks what the ranks need; nothing
            was started.
        CheckpointError: A checkpoint is corrupt; nothing was started.
        UnavailableError: A model did not start.
        Interrupted: A signal came.
    """
    with _stage(console, "reading the configuration"):
        file = ServeFile.read(config_path)
        check_keys(file)
        check_hosts(file)
        check_tls(file)
        check_tracing(file)
        check_ports(file)
        check_placement(file, [this_machine()])
    with _stage(console, "checking the checkpoint"):
        for model in file.serving.models:
            check_checkpoint(model)
    with _stage(console, "planning the memory"):
        plans = check_memory(file)
    for plan in plans:
        console.print(f"  {plan}", highlight=False)
    deploy(console, session, interruption, file)
    return file


def deploy(
    console: Console,
    session: LocalSession,
    interruption: Interruption,
    file: ServeFile,
    start: Callable[[LocalSession, Mapping[str, str]], None] = start_ray,
) -> None:
    """Start Ray and Serve and load the models of a file that was checked; returns when they are loaded.

    Args:
        console: For progress.
        session: Of the Ray that is started.
        interruption: Watched meanwhile.
        file: What to serve.
        start: Starts Ray and connects to it.

    Raises:
        UnavailableError: A model did not start.
        Interrupted: A signal came.
    """
    with _stage(console, "starting Ray"):
        start(session, _cluster_environment(file))
        interruption.watch()
    with _stage(console, "starting Serve"):
        _start_serve(file)
    with _stage(console, "loading the model") as status:
        _wait_until_running(file, status, interruption)
        _wait_until_reached(file, interruption)
    for port in open_ports(session_processes(session.session_id)):
        console.print(f"[yellow]open to other hosts:[/] {port}")


@contextmanager
def _stage(console: Console, title: str) -> Iterator[Status]:
    started_at = time.monotonic()
    with console.status(title) as status:
        yield status
    console.print(f"[green]✓[/] {title} [dim]{time.monotonic() - started_at:.1f} s[/]")


def _cluster_environment(file: ServeFile) -> dict[str, str]:
    """Return the environment that the file asks for its proxies; here the whole cluster has it.

    Given to Ray's processes from the start, it costs no new worker process, as a runtime_env would.
    """
    variables = file.proxy_environment
    if not is_haproxy_on():
        return variables
    grpc_host = variables.get(GRPC_HOST_VARIABLE, LOOPBACK)
    hosts = haproxy_hosts(file.schema.http_options.host, grpc_host)
    return variables | {GRPC_HOST_VARIABLE: LOOPBACK} | hosts


def _http_options(file: ServeFile) -> dict[str, object]:
    """Return the file's options for HTTP; behind HAProxy no port of Serve's own is for other hosts."""
    options: dict[str, object] = file.schema.http_options.model_dump()
    return options | {"host": LOOPBACK} if is_haproxy_on() else options


def _start_serve(file: ServeFile) -> None:
    """Start Serve's controller and proxies with the file's options, and submit its application."""
    schema = file.schema
    serve.start(
        proxy_location=schema.proxy_location,
        http_options=_http_options(file),
        grpc_options=schema.grpc_options.model_dump(),
        logging_config=schema.logging_config,
    )
    # The way in which `serve run` submits a file; there is no public one.
    client = _get_global_client()
    assert client is not None, "serve.start has connected"
    client.deploy_apps(schema, _blocking=False)


def _wait_until_running(file: ServeFile, status: Status, interruption: Interruption) -> None:
    """Show how far the ranks are; UnavailableError with the cause where a replica does not start."""
    placement_timeout_s = max(model.placement_timeout_s for model in file.serving.models)
    placed_at = time.monotonic()
    while True:
        interruption.check()
        state = read_deploy_state(file.schema.applications[0].name)
        if state.failure is not None:
            raise UnavailableError(f"{file.path}: the model did not start: {state.failure}")
        if state.is_running:
            return
        if state.is_placed:
            placed_at = time.monotonic()
        elif time.monotonic() - placed_at > placement_timeout_s:
            # What is in use by others counts here: the machine as a whole was large enough.
            check_placement(file, free_cluster_nodes())
        status.update(_loading_text(state.progress) or "starting the ranks")
        time.sleep(POLL_S)


def _wait_until_reached(file: ServeFile, interruption: Interruption) -> None:
    """Return when HTTP gets through to the ingress, of which HAProxy learns only after Serve has started it.

    Raises:
        UnavailableError: It does not.
    """
    give_up_s = time.monotonic() + _PROXY_PATIENCE_S
    with httpx.Client(base_url=file.base_url, verify=file.tls) as http:
        while (answer := _ask_live(http)) != "200":
            interruption.check()
            if time.monotonic() > give_up_s:
                raise UnavailableError(
                    f"{file.base_url}/live does not reach the ingress ({answer}); the proxies' logs say why."
                )
            time.sleep(POLL_S)


def _ask_live(http: httpx.Client) -> str:
    """Return the status of an answer, or why there was none."""
    try:
        return str(http.get("/live").status_code)
    except httpx.HTTPError as error:
        return str(error)


def _loading_text(progress: dict[str, LoadProgress]) -> str:
    """Return how far each rank of each model is, or how far the last of many is."""
    by_model: dict[str, list[tuple[int, LoadProgress]]] = {}
    for name, rank_progress in sorted(progress.items()):
        model, _, rest = name.partition("#")
        by_model.setdefault(model, []).append((int(rest.rpartition("#")[2]), rank_progress))
    texts = []
    for model, ranks in by_model.items():
        # Of many ranks, those that the others wait for.
        ranks.sort(key=lambda rank: rank[1].fraction)
        shown = sorted(ranks[:_MAX_SHOWN_RANKS], key=lambda rank: rank[0])
        texts.append(f"{model}: " + ", ".join(f"rank {rank} {state}" for rank, state in shown))
    return "; ".join(texts)
