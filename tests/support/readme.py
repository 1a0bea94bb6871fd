"""The README's examples, as they are written but for the ports."""

from __future__ import annotations

import re
from pathlib import Path

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def readme_example(language: str, marker: str, *, http_port: int, grpc_port: int) -> str:
    """Return the only code block with a marker in it, with other ports than those of `make serve`."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)
    (block,) = [block for block in blocks if marker in block]
    return str(block.replace(":8000", f":{http_port}").replace(":9000", f":{grpc_port}"))
