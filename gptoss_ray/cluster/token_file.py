"""The file with a cluster's token: whoever has it runs code on the cluster."""

from __future__ import annotations

from pathlib import Path

from gptoss_ray.errors import ConfigError
from gptoss_ray.serving.ray_token import write_token

TOKEN_MOUNT = "~/.gptoss-ray-token"
"""Where every node has it."""

_FOR_OTHERS = 0o077


def check_token_file(path: Path) -> str:
    """Return what is known of the token here.

    Raises:
        ConfigError: Others may read it, or it is empty.
    """
    if not path.exists():
        return f"{path} will be made"
    if path.stat().st_mode & _FOR_OTHERS:
        raise ConfigError(f"{path} can be read by others; `chmod 600 {path}`.")
    if not path.read_text(encoding="utf-8").strip():
        raise ConfigError(f"{path} is empty; remove it, and a token will be made.")
    return str(path)


def ensure_token(path: Path) -> None:
    """Make a random token, for this user alone, unless there is one."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_token(path)
