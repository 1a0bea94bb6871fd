"""Generate the Python stubs of protos/ into gptoss_ray/protos: `python protos/generate.py`."""

from __future__ import annotations

import re
import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

SOURCE = Path(__file__).resolve().parent
TARGET = SOURCE.parent / "gptoss_ray" / "protos"


def generate(target: Path = TARGET) -> int:
    """Run protoc over every .proto file and make the stubs' imports absolute; returns protoc's status."""
    protos = sorted(str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.proto"))
    includes = [f"-I{SOURCE}", f"-I{files('grpc_tools') / '_proto'}"]
    outputs = [f"--python_out={target}", f"--pyi_out={target}", f"--grpc_python_out={target}"]
    status: int = protoc.main(["protoc", *includes, *outputs, *protos])
    if status == 0:
        for stub in target.rglob("*_pb2*.py*"):
            stub.write_text(_made_absolute(stub.read_text()))
    return status


def _made_absolute(stub: str) -> str:
    """Return the stub with modules named from our package: protoc takes the proto root for Python's path.

    The name that the builder gets matters as much as the imports: by it Serve pickles messages.
    """
    stub = re.sub(r"^from gptoss\.", "from gptoss_ray.protos.gptoss.", stub, flags=re.M)
    return re.sub(r"(Build\w+\(DESCRIPTOR, )'gptoss\.", r"\1'gptoss_ray.protos.gptoss.", stub)


if __name__ == "__main__":
    sys.exit(generate())
