from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from gptoss_ray.errors import ConfigError

with warnings.catch_warnings():
    # Importing Serve warns of how Serve uses pydantic.
    warnings.simplefilter("ignore")
    from gptoss_ray.serving.serve_file import ServeFile

DEMO = Path(__file__).parents[3] / "configs/demo.yaml"


def write(path: Path, scaling: dict[str, Any] | None, **options: Any) -> Path:
    """Write the demo's file with another scaling, and options of its replicas in Serve's own words."""
    config = yaml.safe_load(DEMO.read_text(encoding="utf-8"))
    application = config["applications"][0]
    model = application["args"]["models"][0]
    model.pop("scaling", None)
    if scaling is not None:
        model["scaling"] = scaling
    application["deployments"][1] |= options
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


@pytest.mark.parametrize("options", [{"num_replicas": 2}, {"autoscaling_config": {"min_replicas": 2}}])
def test_a_model_is_scaled_in_one_place(tmp_path, options):
    (option,) = options
    message = rf"line \d+: {option} of EngineReplica stands beside the model's own scaling; remove one"
    with pytest.raises(ConfigError, match=message):
        ServeFile.read(write(tmp_path / "serve.yaml", {"max_replicas": 2}, **options))
    assert ServeFile.read(write(tmp_path / "serve.yaml", None, **options)).serving.models[0].scaling is None


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"max_replica": 2}, r"line \d+: unknown key 'max_replica'; did you mean 'max_replicas'\?"),
        ({"min_replicas": 3, "max_replicas": 2}, "max_replicas 2 is less than min_replicas 3"),
        ({"min_replicas": 3}, "max_replicas 1 is less than min_replicas 3"),
        ({"target_running": 0}, r"models\[0\]\.scaling\.target_running: .*greater than 0"),
        ({"target_first_token_s": -1}, r"target_first_token_s: .*greater than 0"),
        ({"down_delay_s": "soon"}, r"down_delay_s: .*valid number"),
    ],
)
def test_a_mistake_in_a_models_scaling_names_the_option(tmp_path, scaling, message):
    with pytest.raises(ConfigError, match=message):
        ServeFile.read(write(tmp_path / "serve.yaml", scaling))
