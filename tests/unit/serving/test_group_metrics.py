from prometheus_client.metrics_core import Metric

from gptoss_ray.ranks.group_events import EventKind
from gptoss_ray.serving.group_metrics import expert_load, group_families, tokens_per_expert
from tests.support.group_stats import healed_group


def series(families: list[Metric]) -> dict[tuple[str, ...], float]:
    """Return values by name and labels behind the model."""
    return {
        (sample.name, *(value for key, value in sample.labels.items() if key != "model")): sample.value
        for family in families
        for sample in family.samples
    }


def test_what_ranks_and_groups_tell_has_their_labels():
    found = series(group_families({"m": [healed_group()]}))
    assert found["gptoss_replicas",] == 1
    assert found["gptoss_sequences_running", "replica-a", "1"] == 4
    assert found["gptoss_kv_cache_usage_ratio", "replica-a", "1"] == 0.75
    assert found["gptoss_rank_all_to_all_seconds_total", "replica-a", "0"] == 1.5
    assert found["gptoss_rank_step_seconds_total", "replica-a", "0"] == 6
    assert found["gptoss_rank_expert_rows_total", "replica-a", "1"] == 4001
    assert found["gptoss_requests_queued", "replica-a"] == 4
    assert found["gptoss_queued_tokens", "replica-a"] == 900
    assert found["gptoss_group_epoch", "replica-a"] == 3
    assert found["gptoss_group_members", "replica-a"] == 2
    assert found["gptoss_group_serving", "replica-a"] == 1
    assert found["gptoss_group_healing_seconds_total", "replica-a"] == 0.75
    assert found["gptoss_group_events_total", "replica-a", "rank_lost"] == 1
    assert found["gptoss_group_events_total", "replica-a", "epoch_granted"] == 2


def test_an_event_that_never_happened_is_there_with_zero():
    found = series(group_families({"m": [healed_group()]}))
    events = {labels[2] for name, *labels in ((key[0], *key) for key in found) if "group_events" in name}
    assert events == {kind.value for kind in EventKind}


def test_experts_are_counted_over_layers_and_ranks():
    group = healed_group()
    assert expert_load(group) == [[11, 22, 33, 44], [55, 66, 77, 88]]
    assert tokens_per_expert(group) == [66, 88, 110, 132]
    assert series(group_families({"m": [group]}))["gptoss_expert_tokens_total", "replica-a", "3"] == 132


def test_a_model_without_replicas_is_told_as_such():
    found = series(group_families({"m": []}))
    assert found == {("gptoss_replicas",): 0}


def test_every_metric_is_described():
    for family in group_families({"m": [healed_group()]}):
        assert family.documentation.endswith("."), family.name
