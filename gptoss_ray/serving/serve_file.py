"""A Ray Serve config file that serves our application, checked before anything starts."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from ray.serve.schema import ServeDeploySchema

from gptoss_ray.config import ServingConfig
from gptoss_ray.serving.app import deployment_names, replica_name
from gptoss_ray.serving.loopback_schema import IMPORT_PATH
from gptoss_ray.serving.tls import trusting
from gptoss_ray.yaml_document import YamlDocument


@dataclass(frozen=True)
class ServeFile:
    """The file as Serve reads it (`schema`), and the arguments of its one application (`serving`)."""

    path: Path
    schema: ServeDeploySchema
    serving: ServingConfig

    @property
    def base_url(self) -> str:
        """Where a client on this machine reaches HTTP."""
        http = self.schema.http_options
        scheme = "https" if http.ssl_certfile else "http"
        return f"{scheme}://{http.host}:{http.port}"

    @property
    def tls(self) -> ssl.SSLContext | bool:
        """What a client on this machine verifies a certificate by; True where there is none."""
        certificate = self.schema.http_options.ssl_certfile
        return True if certificate is None else trusting(certificate)

    @property
    def proxy_environment(self) -> dict[str, str]:
        """The environment that the file asks for its proxies."""
        options = self.schema.controller_options
        variables: dict[str, str] = ((options and options.runtime_env) or {}).get("env_vars", {})
        return variables

    @classmethod
    def read(cls, path: str | Path) -> ServeFile:
        """Read and check a file, Serve's part included: Serve itself ignores unknown keys.

        Raises:
            ConfigError: The first mistake, with its line.
        """
        document = YamlDocument.read(path)
        schema = document.validate(ServeDeploySchema)
        if len(schema.applications) != 1:
            raise document.error(
                document.node(("applications",)),
                f"applications has {len(schema.applications)} entries; gptoss-ray serves exactly one.",
            )
        application = schema.applications[0]
        here = ("applications", 0)
        if application.import_path != IMPORT_PATH:
            raise document.error(
                document.node((*here, "import_path")),
                f"import_path is {application.import_path!r}; it must be {IMPORT_PATH}.",
            )
        if "args" not in document.data["applications"][0]:
            raise document.error(document.node(here), "args is missing; give at least args.models.")
        serving = document.validate(ServingConfig, at=(*here, "args"))
        known = deployment_names(serving)
        scaled = {replica_name(serving, model) for model in serving.models if model.scaling is not None}
        for index, deployment in enumerate(application.deployments):
            if deployment.name not in known:
                raise document.error(
                    document.node((*here, "deployments", index)),
                    f"no deployment is called {deployment.name!r}; known: {', '.join(known)}.",
                )
            for option in ("autoscaling_config", "num_replicas"):
                if deployment.name in scaled and option in deployment.model_fields_set:
                    raise document.error(
                        document.node((*here, "deployments", index, option)),
                        f"{option} of {deployment.name} stands beside the model's own scaling; remove one.",
                    )
        return cls(Path(path), schema, serving)
