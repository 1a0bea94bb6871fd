import ssl

import pytest

from gptoss_ray.errors import ConfigError
from gptoss_ray.serving.tls import CERTIFICATE_VARIABLE, KEY_VARIABLE, grpc_credentials, trusting
from tests.support.certificates import make_certificates


def test_without_certificate_grpc_is_plaintext_and_with_one_it_is_not(tmp_path):
    files = make_certificates(tmp_path)
    assert grpc_credentials({}) is None
    assert grpc_credentials({CERTIFICATE_VARIABLE: str(files.certificate), KEY_VARIABLE: str(files.key)})


@pytest.mark.parametrize("missing", [CERTIFICATE_VARIABLE, KEY_VARIABLE])
def test_half_a_certificate_is_no_reason_to_speak_plaintext(tmp_path, missing):
    files = make_certificates(tmp_path)
    environment = {CERTIFICATE_VARIABLE: str(files.certificate), KEY_VARIABLE: str(files.key)}
    with pytest.raises(ConfigError) as caught:
        grpc_credentials(environment | {missing: ""})
    assert caught.value.param == missing
    with pytest.raises(ConfigError, match="cannot be read"):
        grpc_credentials(environment | {missing: str(tmp_path / "absent")})


def test_a_client_on_this_machine_trusts_the_servers_own_certificate_alone(tmp_path):
    context = trusting(str(make_certificates(tmp_path).certificate))
    assert context.verify_mode is ssl.CERT_REQUIRED
    with pytest.raises(ConfigError, match="holds no certificate"):
        trusting(str(tmp_path / "server.key"))
