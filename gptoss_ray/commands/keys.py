"""`gptoss-ray keys new`: an API key, shown once, and the line by which the server knows it."""

from __future__ import annotations

import secrets
from typing import Annotated

import typer

from gptoss_ray.config import QuotaConfig
from gptoss_ray.serving.auth import key_digest
from gptoss_ray.serving.key_file import check_key_name

keys_app = typer.Typer(help="Make API keys.", no_args_is_help=True)

_PREFIX = "gptoss-"
_KEY_BYTES = 32


@keys_app.callback()
def keys() -> None:
    """Make API keys."""


@keys_app.command()
def new(
    name: Annotated[str, typer.Argument(help="Whose key it is; shown in logs.")],
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Requests of any kind.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1, help="Of prompts and outputs.")] = None,
    max_concurrent: Annotated[int | None, typer.Option(min=1, help="Requests under way at once.")] = None,
    share: Annotated[
        float | None, typer.Option(min=0.01, max=100, help="Of a full server; 1 by default.")
    ] = None,
) -> None:
    """Print a new key, and the line for the file that `api_keys_file` names. The key is kept nowhere."""
    key = _PREFIX + secrets.token_urlsafe(_KEY_BYTES)
    quota = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "max_concurrent": max_concurrent,
        "share": share,
    }
    given = {field: value for field, value in quota.items() if value is not None}
    line = key_line(name, key, QuotaConfig.model_validate(given))
    typer.echo(f"key, shown this once: {key}")
    typer.echo(f"line for the file:    {line}")


def key_line(name: str, key: str, quota: QuotaConfig) -> str:
    """Return a key's line in the file; ConfigError where the name cannot stand there."""
    fields = [f'sha256: "{key_digest(key)}"']
    fields += [
        f"{field}: {value:g}" if field == "share" else f"{field}: {value}"
        for field, value in quota.model_dump(exclude_unset=True).items()
    ]
    return f"{check_key_name(name)}: {{{', '.join(fields)}}}"
