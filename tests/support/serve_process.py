"""A server in a process of its own, for tests: `python -m tests.support.serve_process CONFIG [elastic]`.

Of a configuration file, or of the JSON of a `ScriptedServer`, which may be on a Ray that adds nodes.

Ray wants its environment before it is imported, and a test run has long imported it. Commands come as
lines on stdin and are answered as JSON lines on stdout; the end of stdin ends the server.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from gptoss_ray.serving.interrupt import Interruption
from gptoss_ray.serving.local_session import LocalSession
from gptoss_ray.serving.scripted_options import ScriptedServer
from tests.support.elastic_ray import start_elastic_ray

# Ray prints to stdout as it likes.
_ANSWERS, sys.stdout = sys.stdout, sys.stderr


def main(config_path: str, kind: str = "local") -> None:
    session = LocalSession()
    from gptoss_ray.serving.local_ray import start_ray, stop_ray
    from gptoss_ray.serving.scripted_app import scripted_file
    from gptoss_ray.serving.startup import deploy, start_serving

    console, interruption = Console(stderr=True), Interruption()
    try:
        if config_path.endswith(".json"):
            server = ScriptedServer.model_validate_json(Path(config_path).read_text(encoding="utf-8"))
            start = start_elastic_ray if kind == "elastic" else start_ray
            deploy(console, session, interruption, scripted_file(server), start)
        else:
            start_serving(console, session, interruption, config_path)
        _say({"session_id": session.session_id, "logs": str(session.logs)})
        for line in sys.stdin:
            _say(_answer(line.strip()))
    finally:
        stop_ray(session)
        session.remove()


def _answer(command: str) -> Any:
    import ray
    from ray import serve

    from gptoss_ray.ranks.ray_ranks import RANK_NAMESPACE

    if command == "replicas":
        return _replicas()
    if command == "nodes":
        return sum(node["Alive"] for node in ray.nodes())
    handle = serve.get_deployment_handle("EngineReplica", "gptoss")
    if command in ("stats", "all stats"):
        told = handle.broadcast("stats").results(timeout_s=30)
        assert command == "all stats" or len(told) == 1
        return [dataclasses.asdict(rank) for replica in told for rank in replica.ranks]
    if command.startswith("deploy "):
        _redeploy(command.removeprefix("deploy "))
        return "done"
    if command == "kill_ranks":
        names = [
            actor["name"]
            for actor in ray.util.list_named_actors(all_namespaces=True)
            if actor["namespace"] == RANK_NAMESPACE
        ]
        for name in names:
            ray.kill(ray.get_actor(name, namespace=RANK_NAMESPACE))
        return len(names)
    if command == "kill_response_stores":
        from gptoss_ray.serving.response_store_actor import STORE_NAMESPACE

        actors = ray.util.list_named_actors(all_namespaces=True)
        stores = [actor["name"] for actor in actors if actor["namespace"] == STORE_NAMESPACE]
        for name in stores:
            ray.kill(ray.get_actor(name, namespace=STORE_NAMESPACE))
        return len(stores)
    raise ValueError(f"unknown command {command!r}")


def _replicas() -> dict[str, dict[str, int]]:
    """Return how many replicas each deployment has, by their state."""
    from ray import serve

    (application,) = serve.status().applications.values()
    return {name: dict(each.replica_states) for name, each in application.deployments.items()}


def _redeploy(config_path: str) -> None:
    """Put another configuration in the place of the present one, as `serve deploy` does."""
    from ray.serve.context import _get_global_client

    from gptoss_ray.serving.serve_file import ServeFile

    client = _get_global_client()
    assert client is not None
    client.deploy_apps(ServeFile.read(config_path).schema, _blocking=False)


def _say(value: Any) -> None:
    print(json.dumps(value), file=_ANSWERS, flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(*sys.argv[1:])
