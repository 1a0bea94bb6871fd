"""A Ray whose autoscaler adds nodes: processes of this machine, from Ray's own provider for tests."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptoss_ray.serving.free_ports import LOOPBACK, free_ports
from gptoss_ray.serving.local_session import LocalSession

OBJECT_STORE_BYTES = 80 << 20
MAX_WORKERS = 2


def start_elastic_ray(session: LocalSession, environment: Mapping[str, str]) -> None:
    """Start a head with one CPU, to which nodes with one CPU are added while something waits for them.

    A drop-in for `local_ray.start_ray`; `stop_ray` ends it. Ray's AutoscalingCluster would end every other
    Ray of this machine first.
    """
    import ray

    os.environ.update(environment)
    (port,) = free_ports(1)
    path = session.folder / "autoscaler.yaml"
    path.write_text(json.dumps(_cluster_config(f"{LOOPBACK}:{port}")), encoding="utf-8")
    subprocess.run(
        [
            *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--num-cpus=1"),
            *(f"--node-ip-address={LOOPBACK}", f"--port={port}", f"--temp-dir={session.folder}"),
            *(f"--object-store-memory={OBJECT_STORE_BYTES}", "--include-dashboard=false"),
            *(f"--autoscaling-config={path}", "--disable-usage-stats"),
        ],
        env=os.environ | {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"},
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=120,
    )
    ray.init(address=f"{LOOPBACK}:{port}", log_to_driver=False, logging_level=logging.ERROR)


def _cluster_config(gcs_address: str) -> dict[str, Any]:
    resources = {"CPU": 1, "object_store_memory": OBJECT_STORE_BYTES}
    return {
        "cluster_name": "elastic",
        "max_workers": MAX_WORKERS,
        "idle_timeout_minutes": 0.05,
        "upscaling_speed": 10,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": gcs_address,
            "launch_multiple": True,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "auth": {},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
            "worker": {
                "resources": resources,
                "node_config": {},
                "min_workers": 0,
                "max_workers": MAX_WORKERS,
            },
        },
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "initialization_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
    }
