import pytest

from gptoss_ray.config import ServingConfig
from gptoss_ray.errors import ConfigError
from gptoss_ray.yaml_document import YamlDocument

GOOD = """\
models:
  - name: m
    checkpoint: demo
    engine:
      max_num_sequences: 8
"""
PARALLEL = "    parallel:\n      num_ranks: 2\n"


def validate(tmp_path, text):
    path = tmp_path / "serve.yaml"
    path.write_text(text, encoding="utf-8")
    return YamlDocument.read(path).validate(ServingConfig)


def test_a_good_file_becomes_a_frozen_config(tmp_path):
    config = validate(tmp_path, GOOD)
    assert config.models[0].engine.max_num_sequences == 8
    with pytest.raises(ValueError, match="frozen"):
        config.models = ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            GOOD.replace("max_num_sequences", "max_num_sequence"),
            r"line 5: unknown key 'max_num_sequence'; did you mean 'max_num_sequences'\?",
        ),
        (GOOD + "apikeys: [a]\n", r"line 6: unknown key 'apikeys'; did you mean 'api_keys'\?"),
        (GOOD + "zzz: 1\n", r"line 6: unknown key 'zzz'; known keys: allow_unauthenticated, api_keys, "),
        (
            GOOD.replace("8", "0"),
            r"line 5: models\[0\]\.engine\.max_num_sequences: .*greater than or equal to 1.*got 0",
        ),
        (GOOD.replace("    checkpoint: demo\n", ""), r"line 2: models\[0\]\.checkpoint: Field required"),
        (GOOD + "models: []\n", r"line 6: key 'models' stands twice"),
        (GOOD + "api_keys: ['']\n", r"line 6: api_keys: an API key is empty"),
        (GOOD + "  bad: [\n", r"line \d+: not valid YAML"),
        ("- 1\n", r"expected a mapping"),
        (GOOD + "  - name: m\n    checkpoint: demo\n", r"'m' is used twice"),
        (
            GOOD.replace("max_num_sequences: 8", "pin_threads: true") + PARALLEL,
            "pin the 2 ranks of a node to the same CPUs",
        ),
    ],
)
def test_a_mistake_names_the_file_the_line_and_the_remedy(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        validate(tmp_path, text)
    assert str(tmp_path / "serve.yaml") in str(caught.value)


def test_a_missing_file_is_one_clear_line(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read"):
        YamlDocument.read(tmp_path / "absent.yaml")


def test_keys_come_from_the_file_and_the_environment(monkeypatch):
    model = {"name": "m", "checkpoint": "demo"}
    monkeypatch.setenv("SERVER_KEYS", "b, c")
    config = ServingConfig.model_validate(
        {"models": [model], "api_keys": ["a"], "api_keys_env": "SERVER_KEYS"}
    )
    assert config.resolve_api_keys() == ("a", "b", "c")
    assert "'a'" not in repr(config)


def test_an_unset_key_variable_never_opens_the_server(monkeypatch):
    monkeypatch.delenv("SERVER_KEYS", raising=False)
    config = ServingConfig.model_validate(
        {"models": [{"name": "m", "checkpoint": "demo"}], "api_keys_env": "SERVER_KEYS"}
    )
    with pytest.raises(ConfigError, match="SERVER_KEYS, which is unset or empty"):
        config.resolve_api_keys()
