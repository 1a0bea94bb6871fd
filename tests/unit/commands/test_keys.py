import re

from typer.testing import CliRunner

from gptoss_ray.cli import app
from gptoss_ray.errors import ConfigError
from gptoss_ray.serving.auth import ApiKeys


def test_a_new_key_is_shown_once_and_its_line_opens_the_server_for_it(tmp_path):
    options = ["--requests-per-minute", "60", "--share", "2"]
    result = CliRunner().invoke(app, ["keys", "new", "alice", *options])
    assert result.exit_code == 0
    key = re.search(r"shown this once: (\S+)", result.output).group(1)
    line = re.search(r"line for the file: +(.+)", result.output).group(1)
    assert key not in line
    path = tmp_path / "keys.yaml"
    path.write_text(line)
    keys = ApiKeys(file=path)
    tenant = keys.tenant(f"Bearer {key}", None)
    assert keys.name(tenant) == "alice"
    assert (keys.quota(tenant).requests_per_minute, keys.quota(tenant).share) == (60, 2)
    again = CliRunner().invoke(app, ["keys", "new", "alice"]).output
    assert key not in again


def test_a_name_that_cannot_stand_in_the_file_makes_no_key():
    result = CliRunner().invoke(app, ["keys", "new", "a b"])
    assert isinstance(result.exception, ConfigError)
    assert "shown this once" not in result.output
