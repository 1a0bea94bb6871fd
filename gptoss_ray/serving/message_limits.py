"""The one place that bounds what Serve's gRPC proxies take in before anything of ours sees it.

Serve 2.60 lets a message have 2 GiB. `limits.max_body_bytes`, which the ingress checks, is at most
`MAX_BODY_BYTES`; a proxy does not know the configuration and is held to that.
"""

from __future__ import annotations

import importlib
from typing import Any

from gptoss_ray.config import MAX_BODY_BYTES

_RECEIVE = "grpc.max_receive_message_length"


def bound_messages() -> None:
    """Make the gRPC servers of this process refuse larger messages with RESOURCE_EXHAUSTED."""
    module: Any = importlib.import_module("ray.serve._private.grpc_util")
    others = [option for option in module.DEFAULT_GRPC_SERVER_OPTIONS if option[0] != _RECEIVE]
    module.DEFAULT_GRPC_SERVER_OPTIONS = [*others, (_RECEIVE, MAX_BODY_BYTES)]
