"""What must hold before a cluster is made: nothing left to replace, token, files, keys, room for the ranks.

Each check returns what is well, or raises a ConfigError that names the field, its value and the remedy.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gptoss_ray.cluster.cluster_file import ClusterFile
from gptoss_ray.cluster.cluster_fit import find_misfit
from gptoss_ray.cluster.placeholders import find_placeholders
from gptoss_ray.cluster.token_file import TOKEN_MOUNT, check_token_file
from gptoss_ray.errors import ConfigError

if TYPE_CHECKING:
    from gptoss_ray.serving.serve_file import ServeFile

_TOKEN_DEMAND = "RAY_AUTH_MODE=token"
_MAX_NAMED = 4


def check_placeholders(cluster: ClusterFile) -> str:
    """Refuse values that still stand for an operator's own."""
    found = [str(placeholder) for placeholder in find_placeholders(cluster.document.root)]
    if found:
        others = f" and {len(found) - _MAX_NAMED} others" if len(found) > _MAX_NAMED else ""
        raise ConfigError(f"{', '.join(found[:_MAX_NAMED])}{others}; replace by what is yours.")
    return "all replaced"


def check_token(cluster: ClusterFile) -> str:
    """Refuse a cluster that would take orders from strangers, or a token that others may read."""
    starts = {
        "head_start_ray_commands": cluster.head_start_commands,
        "worker_start_ray_commands": cluster.worker_start_commands,
    }
    for field, commands in starts.items():
        if not any(_TOKEN_DEMAND in command for command in commands if "ray start" in command):
            raise ConfigError(
                f"{field} start Ray without {_TOKEN_DEMAND}: whoever reaches a port of it runs code there; "
                f"`export {_TOKEN_DEMAND} RAY_AUTH_TOKEN_PATH={TOKEN_MOUNT}` before `ray start`."
            )
    source = cluster.file_mounts.get(TOKEN_MOUNT)
    if source is None:
        raise ConfigError(f"file_mounts has no {TOKEN_MOUNT}; mount the cluster's token there.")
    return check_token_file(Path(source).expanduser())


def check_mounts(cluster: ClusterFile) -> str:
    """Refuse files for the nodes that are not here; the token may still be made."""
    for target, source in cluster.file_mounts.items():
        if target != TOKEN_MOUNT and not Path(source).expanduser().exists():
            raise ConfigError(
                f"file_mounts.{target} is {source}, which is not here; start in the project's folder, where "
                "`make wheel` has made dist/, or correct the path."
            )
    return f"{len(cluster.file_mounts)} for every node"


def check_tools() -> str:
    """Refuse to begin without the commands that `ray up` runs here."""
    missing = [name for name in ("ssh", "rsync") if shutil.which(name) is None]
    if not ray_command().is_file():
        missing.insert(0, "ray")
    if missing:
        raise ConfigError(f"not installed here: {', '.join(missing)}; install them.")
    return "ray, ssh, rsync"


def ray_command() -> Path:
    """Return Ray's command of the environment that we run in."""
    return Path(sys.executable).with_name("ray")


def check_keys_on_nodes(cluster: ClusterFile, file: ServeFile) -> str:
    """Refuse a server that strangers could use, or whose keys would not reach the nodes."""
    from gptoss_ray.serving.key_file import read_key_file  # noqa: PLC0415
    from gptoss_ray.serving.preflight import check_hosts  # noqa: PLC0415

    check_hosts(file)
    serving = file.serving
    found = []
    if serving.api_keys:
        found.append(f"{len(serving.api_keys)} in {file.path}")
    if serving.api_keys_file is not None:
        source = cluster.file_mounts.get(serving.api_keys_file)
        if source is None:
            raise ConfigError(
                f"args.api_keys_file is {serving.api_keys_file}, which no node would have; add it to "
                f"file_mounts of {cluster.path}: `{serving.api_keys_file}: PATH HERE`."
            )
        found.append(f"{len(read_key_file(Path(source).expanduser()))} in {source}")
    if serving.api_keys_env is not None:
        if not _all_set(serving.api_keys_env, cluster):
            raise ConfigError(
                f"args.api_keys_env is {serving.api_keys_env}, which the start commands of {cluster.path} do "
                "not set on every node; export it before `ray start`, or use api_keys_file and file_mounts."
            )
        found.append(f"from {serving.api_keys_env} of the nodes")
    return ", ".join(found) or "none: only the nodes themselves are served"


def _all_set(variable: str, cluster: ClusterFile) -> bool:
    """Whether the commands that start Ray name a variable, on the head and on workers."""
    starts = (cluster.head_start_commands, cluster.worker_start_commands)
    return all(any(variable in command for command in commands) for commands in starts)


def check_fit(cluster: ClusterFile, file: ServeFile) -> str:
    """Refuse groups of ranks that the cluster could never place."""
    from gptoss_ray.serving.preflight import first_placements  # noqa: PLC0415

    placements = first_placements(file)
    misfit = find_misfit(placements, cluster.head, cluster.workers, cluster.max_workers)
    if misfit is not None:
        raise ConfigError(f"{cluster.path}: {misfit}", param="parallel.num_ranks")
    found = "; ".join(dict.fromkeys(f"{placement.model}: {placement}" for placement in placements))
    unknown = [type_.name for type_ in (cluster.head, *cluster.workers) if type_.amounts is None]
    return f"{found}. Not known before they start: {', '.join(unknown)}" if unknown else found
