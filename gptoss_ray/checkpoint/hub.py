"""Where a checkpoint lies: the built-in demo, a local folder, or a repository of the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from gptoss_ray.checkpoint.model_config import Layout
from gptoss_ray.errors import CheckpointError

DEMO = "demo"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def resolve_folder(source: str | Path, *, layout: Layout = "huggingface", with_weights: bool = True) -> Path:
    """Return the folder of a checkpoint, fetching it if `source` is a hub id like `openai/gpt-oss-20b`.

    `demo` is the model that ships with the package; an existing folder is used as it is. `layout` says
    which of the two layouts of a hub repository to fetch; without weights, only its JSON files are: shape and
    vocabulary. CheckpointError if there is none.
    """
    if source == DEMO:
        return Path(str(resources.files("gptoss_ray.checkpoint") / "demo"))
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if _HUB_ID.fullmatch(str(source)):
        return _fetch(str(source), layout, ["*.safetensors", "*.json"] if with_weights else ["*.json"])
    raise CheckpointError(
        f"{source}: no such folder; give a checkpoint's folder, a hub id like openai/gpt-oss-20b, or `{DEMO}`"
    )


def _fetch(repository: str, layout: Layout, patterns: Sequence[str]) -> Path:
    # Imported here: local folders must not pay for the client's import (0.3 s).
    import httpx  # noqa: PLC0415
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import (  # noqa: PLC0415
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    prefix = "original/" if layout == "original" else ""
    ignored = [] if prefix else ["*/*"]
    try:
        snapshot = snapshot_download(
            repository,
            allow_patterns=[f"{prefix}{pattern}" for pattern in patterns],
            ignore_patterns=ignored,
        )
    except GatedRepoError:
        problem = "access is restricted; accept its terms on the hub and log in with `hf auth login`"
    except RepositoryNotFoundError:
        problem = (
            "no such folder, nor a repository of the hub; check the spelling (private ones need a login)"
        )
    except LocalEntryNotFoundError:
        problem = "not cached, and the hub cannot be reached; go online once, or give a local folder"
    except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as error:
        problem = f"cannot be fetched ({error}); check network and disk space and try again"
    else:
        return Path(snapshot) / prefix
    raise CheckpointError(f"{repository}: {problem}")
