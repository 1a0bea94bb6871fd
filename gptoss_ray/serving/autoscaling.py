"""The autoscaling policy of a model's replicas, as Serve calls it; `scaling_decision.py` decides."""

from __future__ import annotations

import warnings
from typing import Any

from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from gptoss_ray.config import ScalingConfig, ServedModelConfig
from gptoss_ray.serving.replica_load import read_loads
from gptoss_ray.serving.scaling_decision import Observation, ScalingMemory, decide

REPORT_INTERVAL_S = 1.0
"""How often replicas tell their load, and ingress replicas what waits for one; Serve's default is 10 s."""

_LOOK_BACK_S = 5.0
_MEMORY = "gptoss_scaling_memory"


class ReplicaScaling:
    """Decides for one model, several times a second; Serve makes it in its controller.

    Args:
        scaling: A `ScalingConfig` as JSON.
        num_seats: Sequences that one replica runs at once.
    """

    def __init__(self, scaling: dict[str, Any], num_seats: int) -> None:
        self._config = ScalingConfig.model_validate(scaling)
        self._num_seats = num_seats

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Return how many replicas there are to be, and what Serve is to hand back the next time."""
        assert context.current_time is not None, "Serve tells the time"
        seen = Observation(
            now_s=context.current_time,
            num_wanted=context.target_num_replicas,
            loads=read_loads(context.raw_metrics or {}, context.running_replicas, context.current_time),
            num_held=context.total_queued_requests or 0.0,
            last_up_s=context.last_scale_up_time,
        )
        memory = context.policy_state.get(_MEMORY, ScalingMemory())
        num_wanted, memory = decide(seen, memory, self._config, self._num_seats)
        return num_wanted, {_MEMORY: memory}


def autoscaling_config(model: ServedModelConfig) -> AutoscalingConfig | None:
    """Return what Serve is told of a model's scaling; None where its own options hold."""
    scaling = model.scaling
    if scaling is None:
        return None
    num_seats = model.parallel.num_ranks * model.engine.max_num_sequences
    with warnings.catch_warnings():
        # The interval is to become a variable of the whole cluster, which a file cannot set for one model.
        warnings.filterwarnings("ignore", "The `metrics_interval_s` field", DeprecationWarning)
        return AutoscalingConfig(
            min_replicas=scaling.min_replicas,
            initial_replicas=scaling.num_first_replicas,
            max_replicas=scaling.max_replicas,
            metrics_interval_s=REPORT_INTERVAL_S,
            look_back_period_s=_LOOK_BACK_S,
            # The policy has delays of its own.
            upscale_delay_s=0.0,
            downscale_delay_s=0.0,
            policy=AutoscalingPolicy(  # type: ignore[no-untyped-call]
                policy_function=f"{__name__}:{ReplicaScaling.__name__}",
                policy_kwargs={"scaling": scaling.model_dump(mode="json"), "num_seats": num_seats},
            ),
        )
