"""On the path of a server's processes: a forward pass that holds a request of seed POISON_SEED raises.

Python imports a module of this name at its start. It waits for the import of the model runner.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_MODULE = "gptoss_ray.engine.model_runner"


class _PoisonousRunner(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _MODULE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_poison(module: ModuleType) -> None:
            execute(module)
            _poison(module.ModelRunner)

        spec.loader.exec_module = execute_and_poison  # type: ignore[method-assign]
        return spec


def _poison(runner: Any) -> None:
    seed, run = int(os.environ["POISON_SEED"]), runner.run

    def run_or_raise(self: object, plan: Any, *arguments: object) -> object:
        if any(chunk.sequence.request.params.seed == seed for chunk in plan.chunks):
            raise RuntimeError("the forward pass met poison")
        return run(self, plan, *arguments)

    runner.run = run_or_raise


if "POISON_SEED" in os.environ:
    sys.meta_path.insert(0, _PoisonousRunner())
