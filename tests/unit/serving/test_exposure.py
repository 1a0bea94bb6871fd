import pytest

from gptoss_ray.config import ServingConfig
from gptoss_ray.errors import ConfigError
from gptoss_ray.serving.exposure import check_exposure, is_loopback

MODEL = {"name": "m", "checkpoint": "demo"}


def config(**fields):
    return ServingConfig.model_validate({"models": [MODEL], **fields})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "192.168.1.2", "example.org", ""])
def test_other_hosts_are_not_served_without_a_key_unless_the_configuration_says_so(host):
    assert not is_loopback(host)
    with pytest.raises(ConfigError, match="allow_unauthenticated") as caught:
        check_exposure({"http_options.host": "127.0.0.1", "GPTOSS_RAY_GRPC_HOST": host}, config())
    assert caught.value.param == "GPTOSS_RAY_GRPC_HOST"
    check_exposure({"http_options.host": host}, config(allow_unauthenticated=True))
    for keys in ({"api_keys": ["a"]}, {"api_keys_env": "KEYS"}, {"api_keys_file": "keys.yaml"}):
        check_exposure({"http_options.host": host}, config(**keys))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_this_host_is_served_without_a_key(host):
    check_exposure({"http_options.host": host}, config())
