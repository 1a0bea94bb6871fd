import warnings

import pytest

from gptoss_ray.config import MAX_BODY_BYTES, LimitsConfig
from gptoss_ray.serving.message_limits import bound_messages

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of Serve's own use of pydantic
    from ray.serve._private import grpc_util as module


def test_a_proxy_takes_no_larger_message_than_any_configuration_allows(monkeypatch):
    monkeypatch.setattr(module, "DEFAULT_GRPC_SERVER_OPTIONS", list(module.DEFAULT_GRPC_SERVER_OPTIONS))
    before = dict(module.DEFAULT_GRPC_SERVER_OPTIONS)
    assert before["grpc.max_receive_message_length"] > MAX_BODY_BYTES, "else Serve bounds it by itself now"
    bound_messages()
    after = dict(module.DEFAULT_GRPC_SERVER_OPTIONS)
    assert len(after) == len(module.DEFAULT_GRPC_SERVER_OPTIONS)
    assert after == before | {"grpc.max_receive_message_length": MAX_BODY_BYTES}
    with pytest.raises(ValueError, match="max_body_bytes"):
        LimitsConfig(max_body_bytes=MAX_BODY_BYTES + 1)
