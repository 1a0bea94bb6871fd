from prometheus_client.parser import text_string_to_metric_families

from gptoss_ray.generation import TokenOutput
from gptoss_ray.serving.exposition import exposition
from gptoss_ray.serving.group_metrics import group_families
from gptoss_ray.serving.metrics import IngressMetrics
from tests.support.group_stats import healed_group


def measured(num_tokens: int) -> IngressMetrics:
    metrics = IngressMetrics()
    with metrics.watch("m", 5) as watch:
        watch.took_output(TokenOutput("r", 0, tuple(range(num_tokens))))
        watch.ended("stop", {}, 0)
    return metrics


def test_ingress_replicas_are_told_apart_and_each_metric_is_described_once():
    families = {"a": measured(2).families(), "b": measured(3).families()}
    text = exposition(families, group_families({"m": [healed_group()]})).decode()
    lines = text.splitlines()
    assert 'gptoss_generation_tokens_total{ingress="a",model="m"} 2.0' in lines
    assert 'gptoss_generation_tokens_total{ingress="b",model="m"} 3.0' in lines
    assert len([line for line in lines if line.startswith("# TYPE gptoss_generation_tokens_total")]) == 1
    names = [family.name for family in text_string_to_metric_families(text)]
    assert len(names) == len(set(names))
    assert 'gptoss_sequences_running{model="m",rank="0",replica="replica-a"} 3.0' in lines


def test_a_single_ingress_has_no_label():
    text = exposition({"": measured(2).families()}, []).decode()
    assert 'gptoss_generation_tokens_total{model="m"} 2.0' in text
