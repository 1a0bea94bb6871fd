import pytest

from gptoss_ray.errors import AuthenticationError
from gptoss_ray.serving.auth import ApiKeys


def test_without_keys_everyone_is_the_same_tenant():
    assert ApiKeys().tenant(None, None) == ApiKeys().tenant("Bearer whatever", "x") == ""


@pytest.mark.parametrize(
    ("authorization", "x_api_key"),
    [("Bearer two", None), ("bearer two", None), ("Bearer  two ", None), (None, "two"), ("Basic abc", "two")],
)
def test_any_of_the_keys_opens_in_either_header(authorization, x_api_key):
    assert ApiKeys(["one", "two"]).tenant(authorization, x_api_key)


@pytest.mark.parametrize(
    ("authorization", "x_api_key"),
    [
        (None, None),
        ("", ""),
        ("Bearer", None),
        ("Bearer ", None),
        ("two", None),
        ("Basic two", None),
        ("Bearer tw", None),
        ("Bearer twoo", None),
        ("Bearer tw\N{LATIN SMALL LETTER O WITH DIAERESIS}", None),
        (None, "thr\udce9"),
        ("Bearer wrong", "two"),
    ],
)
def test_anything_else_is_refused(authorization, x_api_key):
    with pytest.raises(AuthenticationError):
        ApiKeys(["one", "two"]).tenant(authorization, x_api_key)


def test_tenants_differ_by_key_and_do_not_show_it():
    keys = ApiKeys(["one", "two"])
    assert keys.tenant("Bearer one", None) != keys.tenant("Bearer two", None)
    assert "one" not in keys.tenant("Bearer one", None)
