"""docs/monitoring.md and what is exported say the same."""

import re
from pathlib import Path

from gptoss_ray.serving.group_metrics import group_families
from gptoss_ray.serving.metrics import IngressMetrics
from tests.support.group_stats import healed_group

ROOT = Path(__file__).parents[3]
ROW = re.compile(r"^\| `(gptoss_\w+?)(?:\{(\w+)\})?` \|", re.MULTILINE)


def exported() -> set[str]:
    families = [*IngressMetrics().families(), *group_families({"m": [healed_group()]})]
    return {f"{family.name}_total" if family.type == "counter" else family.name for family in families}


def test_every_metric_has_a_row_and_every_row_a_metric():
    rows = ROW.findall((ROOT / "docs/monitoring.md").read_text(encoding="utf-8"))
    names = [name for name, _ in rows]
    assert sorted(names) == sorted(exported())


def test_labels_that_stand_in_a_row_are_those_of_the_metric():
    rows = dict(ROW.findall((ROOT / "docs/monitoring.md").read_text(encoding="utf-8")))
    for family in group_families({"m": [healed_group()]}):
        extra = {label for sample in family.samples for label in sample.labels} - {"model", "replica", "rank"}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert extra == ({rows[name]} if rows[name] else set()), name
