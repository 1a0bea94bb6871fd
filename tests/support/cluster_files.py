"""Cluster files for tests, small but whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

TOKEN_START = "export RAY_AUTH_MODE=token; ray start"


def cloud_file(folder: Path, **changes: Any) -> Path:
    """Two CPU nodes and two GPU nodes at most; `changes` replace fields at the top."""
    content: dict[str, Any] = {
        "cluster_name": "c",
        "provider": {"type": "aws"},
        "max_workers": 4,
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 0}, "node_config": {}},
            "cpu": {"resources": {"CPU": 16}, "max_workers": 2, "node_config": {}},
            "gpu": {"resources": {"CPU": 32, "GPU": 8}, "max_workers": 2, "node_config": {}},
        },
        "file_mounts": {"~/.gptoss-ray-token": str(folder / "token")},
        "head_start_ray_commands": ["ray stop", f"{TOKEN_START} --head"],
        "worker_start_ray_commands": ["ray stop", TOKEN_START],
    }
    return _written(folder, content | changes)


def local_file(folder: Path, *, start_options: str = "", **changes: Any) -> Path:
    """A head and two workers; `start_options` are those of workers."""
    content = {
        "cluster_name": "c",
        "provider": {"type": "local", "head_ip": "10.1.0.1", "worker_ips": ["10.1.0.2", "10.1.0.3"]},
        "auth": {"ssh_user": "ubuntu"},
        "file_mounts": {"~/.gptoss-ray-token": str(folder / "token")},
        "head_start_ray_commands": [f"{TOKEN_START} --head --port=6400 --num-cpus=0 --num-gpus=0"],
        "worker_start_ray_commands": [f"{TOKEN_START} {start_options}"],
    }
    return _written(folder, content | changes)


def _written(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path
