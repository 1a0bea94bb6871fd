"""A Ray of our own on this machine: all its ports on loopback, its token required, nothing left behind."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Mapping

import ray

from gptoss_ray.serving.free_ports import LOOPBACK
from gptoss_ray.serving.interrupt import Interrupted
from gptoss_ray.serving.local_session import LocalSession
from gptoss_ray.serving.session_processes import end_session

OBJECT_STORE_BYTES = 80 << 20
"""Enough for requests and token batches, which are small; Ray's minimum is 75 MiB."""


def start_ray(session: LocalSession, environment: Mapping[str, str]) -> None:
    """Start Ray for a session; all its processes get `environment` besides the session's own.

    Ray installs signal handlers of its own.
    """
    os.environ.update(environment)
    try:
        ray.init(
            address="local",
            _node_ip_address=LOOPBACK,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=str(session.folder),
        )
    except SystemExit as error:
        # Ray answers SIGTERM so while it starts.
        raise Interrupted from error
    logging.getLogger("ray.serve").setLevel(logging.WARNING)


def stop_ray(session: LocalSession) -> None:
    """Shut Ray down, from whatever state, and end what is left of the session's processes.

    The cluster is ours alone and goes as a whole: Serve's own shutdown, which drains proxies that no
    client will come back to, would only take up to 30 s more.
    """
    # A start that was interrupted half-way may be impossible to shut down; then its processes are ended.
    # Ray prints the deaths of its own actors to stdout meanwhile.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
        ray.shutdown()
    end_session(session.session_id)
