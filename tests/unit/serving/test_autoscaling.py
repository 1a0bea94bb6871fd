from __future__ import annotations

import warnings

import pytest

from gptoss_ray.config import EngineConfig, ParallelConfig, ScalingConfig, ServedModelConfig
from gptoss_ray.ranks.group_load import GroupLoad
from gptoss_ray.serving.replica_load import load_figures

with warnings.catch_warnings():
    # Importing Serve warns of how Serve uses pydantic.
    warnings.simplefilter("ignore")
    from ray.serve._private.autoscaling_state import DeploymentAutoscalingState
    from ray.serve._private.common import DeploymentID, ReplicaID, ReplicaMetricReport, TimeStampedValue
    from ray.serve._private.config import DeploymentConfig
    from ray.serve._private.deployment_info import DeploymentInfo

    from gptoss_ray.serving.autoscaling import autoscaling_config

# Where the configuration crosses processes, Serve says again what autoscaling_config has answered.
pytestmark = pytest.mark.filterwarnings("ignore:The `metrics_interval_s` field:DeprecationWarning")

DEPLOYMENT = DeploymentID("EngineReplica", "gptoss")


def model(**scaling: float) -> ServedModelConfig:
    return ServedModelConfig(
        name="m",
        checkpoint="demo",
        engine=EngineConfig(max_num_sequences=4),
        parallel=ParallelConfig(num_ranks=2),
        scaling=ScalingConfig.model_validate({"max_replicas": 5, "up_delay_s": 0} | scaling),
    )


class Controller:
    """The part of Serve's controller that holds a deployment's autoscaling, at a time of its own."""

    def __init__(self, served: ServedModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1_000_000.0
        monkeypatch.setattr("ray.serve._private.autoscaling_state.time.time", lambda: self.now_s)
        config = DeploymentConfig(autoscaling_config=autoscaling_config(served))
        # As options of a file are put over it, and as it crosses processes: the policy comes from its pickle.
        config = DeploymentConfig(**config.model_dump())
        config = DeploymentConfig.from_proto_bytes(config.to_proto_bytes())
        info = DeploymentInfo.__new__(DeploymentInfo)
        info.deployment_config = config
        info.target_capacity = info.target_capacity_direction = None
        self.state = DeploymentAutoscalingState(DEPLOYMENT)
        self.wanted = self.state.register(info, 0)

    def tell(self, **loads: GroupLoad) -> None:
        self.state.update_running_replica_ids([ReplicaID(name, DEPLOYMENT) for name in loads])
        for name, load in loads.items():
            metrics = {
                key: [TimeStampedValue(self.now_s, value)] for key, value in load_figures(load).items()
            }
            self.state.record_request_metrics_for_replica(
                ReplicaMetricReport(
                    replica_id=ReplicaID(name, DEPLOYMENT), timestamp=self.now_s, metrics=metrics
                )
            )

    def decide(self, seconds: float = 1.0) -> int:
        self.now_s += seconds
        self.wanted = self.state.get_decision_num_replicas(self.wanted)
        return self.wanted


def test_serve_decides_as_the_policy_says_from_what_replicas_tell(monkeypatch):
    controller = Controller(model(target_running=0.5), monkeypatch)
    assert controller.wanted == 1
    controller.tell(a=GroupLoad(8.0, 0.0, 0.0, 0.0))
    assert controller.decide() == 2
    assert controller.decide() == 2
    controller.tell(a=GroupLoad(8.0, 0.0, 0.0, 0.0), b=GroupLoad(8.0, 0.0, 0.0, 0.0))
    assert controller.decide() == 4


def test_serve_hands_back_what_the_last_decision_left(monkeypatch):
    controller = Controller(model(up_delay_s=3), monkeypatch)
    decisions = []
    for _ in range(6):
        controller.tell(a=GroupLoad(8.0, 0.0, 0.0, 0.0))
        decisions.append(controller.decide())
    assert decisions == [1, 1, 1, 2, 2, 2]


def test_serve_takes_the_last_replica_away_without_a_delay_of_its_own(monkeypatch):
    controller = Controller(model(min_replicas=0, zero_delay_s=3), monkeypatch)
    decisions = []
    for _ in range(5):
        controller.tell(a=GroupLoad(0.0, 0.0, 0.0, 0.0))
        decisions.append(controller.decide())
    assert decisions == [1, 1, 1, 0, 0]


def test_a_model_without_scaling_is_left_to_serves_own_options():
    assert autoscaling_config(ServedModelConfig(name="m", checkpoint="demo")) is None
