"""A file for `ray up`, as far as we look into it: the node types, what they hold, and the commands."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from gptoss_ray.cluster.node_type import NodeType
from gptoss_ray.yaml_document import YamlDocument

HEAD_PORT = 6379

_DEFAULT_MAX_WORKERS = 2
_FLAG_RESOURCES = {"CPU": "num-cpus", "GPU": "num-gpus"}


class _Provider(BaseModel):
    type: str
    head_ip: str | None = None
    worker_ips: list[str] = []


class _Auth(BaseModel):
    ssh_user: str = "root"


class _NodeTypeFields(BaseModel):
    resources: dict[str, float] = {}
    max_workers: int | None = Field(None, ge=0)


class _ClusterFields(BaseModel):
    """The fields that we read; Ray checks all of them, and refuses unknown ones."""

    model_config = ConfigDict(frozen=True)

    cluster_name: str
    provider: _Provider
    auth: _Auth = _Auth()
    max_workers: int | None = Field(None, ge=0)
    available_node_types: dict[str, _NodeTypeFields] = {}
    head_node_type: str | None = None
    file_mounts: dict[str, str] = {}
    head_start_ray_commands: list[str] = []
    worker_start_ray_commands: list[str] = []


@dataclass(frozen=True)
class ClusterFile:
    """A cluster as its file describes it.

    Attributes:
        path: Of the file.
        document: The file with its lines.
        provider: Ray's name of who gives the nodes: `local` are machines that are there already.
        head: What the head node holds.
        workers: The types of all other nodes.
        max_workers: Of all types together.
        ssh_user: Who logs in to its nodes.
        file_mounts: Paths here, by the path on every node.
        head_address: Where the file itself says it.
        worker_addresses: The same of workers.
    """

    path: Path
    document: YamlDocument
    provider: str
    head: NodeType
    workers: tuple[NodeType, ...]
    max_workers: int
    ssh_user: str
    file_mounts: dict[str, str]
    head_start_commands: tuple[str, ...]
    worker_start_commands: tuple[str, ...]
    head_address: str | None = None
    worker_addresses: tuple[str, ...] = ()

    @property
    def head_port(self) -> int:
        """Where Ray listens on the head node."""
        return _flag(self.head_start_commands, "port") or HEAD_PORT

    @classmethod
    def read(cls, path: str | Path) -> ClusterFile:
        """Read a file.

        Raises:
            ConfigError: It is no YAML, or a field that we need is missing or wrong; with its line.
        """
        document = YamlDocument.read(path)
        fields = document.validate_known(_ClusterFields)
        head, workers = _node_types(document, fields)
        given = fields.max_workers
        default = len(fields.provider.worker_ips) if fields.provider.type == "local" else _DEFAULT_MAX_WORKERS
        return cls(
            path=Path(path),
            document=document,
            provider=fields.provider.type,
            head=head,
            workers=workers,
            max_workers=default if given is None else given,
            ssh_user=fields.auth.ssh_user,
            file_mounts=fields.file_mounts,
            head_start_commands=tuple(fields.head_start_ray_commands),
            worker_start_commands=tuple(fields.worker_start_ray_commands),
            head_address=fields.provider.head_ip,
            worker_addresses=tuple(fields.provider.worker_ips),
        )


def _node_types(document: YamlDocument, fields: _ClusterFields) -> tuple[NodeType, tuple[NodeType, ...]]:
    """Return the head's type and the others; ConfigError where none is the head's."""
    if fields.provider.type == "local":
        return _local_node_types(fields)
    if fields.head_node_type not in fields.available_node_types:
        known = ", ".join(fields.available_node_types) or "none is there"
        raise document.error(
            document.node(("head_node_type",)),
            f"head_node_type is {fields.head_node_type}, which available_node_types does not have; "
            f"name one of them ({known}).",
        )
    head, workers = None, []
    for name, given in fields.available_node_types.items():
        field = f"available_node_types.{name}"
        resources = f"{field}.resources"
        if name == fields.head_node_type:
            head = NodeType(name, given.resources or None, 1, resources, "head_node_type")
        else:
            limit = fields.max_workers if fields.max_workers is not None else _DEFAULT_MAX_WORKERS
            num_nodes = limit if given.max_workers is None else given.max_workers
            workers.append(
                NodeType(name, given.resources or None, num_nodes, resources, f"{field}.max_workers")
            )
    assert head is not None
    return head, tuple(workers)


def _local_node_types(fields: _ClusterFields) -> tuple[NodeType, tuple[NodeType, ...]]:
    """Machines that are there already have what `ray start` is told, or finds, which we cannot know."""
    head_commands, worker_commands = fields.head_start_ray_commands, fields.worker_start_ray_commands
    head = NodeType("head", _told_resources(head_commands), 1, "head_start_ray_commands", "provider.head_ip")
    worker = NodeType(
        "worker",
        _told_resources(worker_commands),
        len(fields.provider.worker_ips),
        "worker_start_ray_commands",
        "provider.worker_ips",
    )
    return head, (worker,)


def _told_resources(commands: list[str]) -> dict[str, float] | None:
    """Return what `ray start` is told that its node holds; None where it is left to find out."""
    told = {name: _flag(commands, flag) for name, flag in _FLAG_RESOURCES.items()}
    known = {name: float(amount) for name, amount in told.items() if amount is not None}
    return known if len(known) == len(told) else None


def _flag(commands: tuple[str, ...] | list[str], name: str) -> int | None:
    """Return the number that `ray start` is given by an option."""
    for command in commands:
        if "ray start" in command and (found := re.search(rf"--{name}[= ](\d+)\b", command)):
            return int(found[1])
    return None
