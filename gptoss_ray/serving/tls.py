"""TLS where clients connect: HTTP's by Serve's own options, gRPC's by two variables of its proxies.

Serve 2.60 has `http_options.ssl_certfile` and `ssl_keyfile`, and nothing for gRPC; `bind_address.py`, which
opens the gRPC port anyway, takes the certificate from here.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from pathlib import Path

import grpc

from gptoss_ray.errors import ConfigError

CERTIFICATE_VARIABLE = "GPTOSS_RAY_GRPC_TLS_CERT"
KEY_VARIABLE = "GPTOSS_RAY_GRPC_TLS_KEY"


def grpc_credentials(environment: Mapping[str, str] = os.environ) -> grpc.ServerCredentials | None:
    """Return what the gRPC proxy proves itself by; None: it speaks in plaintext.

    Raises:
        ConfigError: One of the two files is not named, or cannot be read.
    """
    paths = {name: environment.get(name) for name in (KEY_VARIABLE, CERTIFICATE_VARIABLE)}
    if not any(paths.values()):
        return None
    contents = []
    for name, path in paths.items():
        if not path:
            raise ConfigError(f"{name} is not set, and the other one of key and certificate is.", param=name)
        try:
            contents.append(Path(path).read_bytes())
        except OSError as error:
            raise ConfigError(
                f"{name} is {path}, which cannot be read: {error.strerror}.", param=name
            ) from error
    return grpc.ssl_server_credentials([(contents[0], contents[1])])


def trusting(certificate: str) -> ssl.SSLContext:
    """Return what a client on this machine needs to trust the server's own certificate, by whatever name.

    Raises:
        ConfigError: The file holds none.
    """
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(certificate)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"{certificate} holds no certificate: {error}.", param="ssl_certfile") from error
    # That very certificate is enough, whoever signed it; and it need not name 127.0.0.1.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    return context
