"""What our configuration files have Serve's proxies, and ingress replicas behind HAProxy, run at first."""

from __future__ import annotations

from typing import Any

from gptoss_ray.serving.bind_address import bind_proxy_to_node_address
from gptoss_ray.serving.grpc_error_details import carry_error_details
from gptoss_ray.serving.hidden_listings import hide_listings
from gptoss_ray.serving.message_limits import bound_messages
from gptoss_ray.serving.request_heads import bound_heads
from gptoss_ray.serving.stream_cancellation import forward_all_cancellations
from gptoss_ray.serving.stream_pacing import pace_proxy_streams


def prepare_proxy() -> list[Any]:
    """Apply our changes to this process; RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names this.

    Returns no HTTP middleware.
    """
    bind_proxy_to_node_address()
    forward_all_cancellations()
    hide_listings()
    bound_heads()
    bound_messages()
    carry_error_details()
    pace_proxy_streams()
    return []
