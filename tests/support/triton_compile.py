"""Compiles Triton kernels for sm_90 on a machine without a GPU, as a launch on one would.

    compiled = compile_launches("tests.support.triton_scenarios:dense_20b")

runs that function in a process of its own, where tensors lie on torch's meta device and a launch compiles
its kernel, specialised to its arguments, instead of running it.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

MAX_REGISTERS = 255
MAX_SHARED_BYTES = 227 << 10
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class CompiledKernel:
    """What a launch compiled.

    Attributes:
        name: Of the kernel.
        grid: Of its first launch.
        num_launches: With these specialisations.
        num_warps: Of a program.
        shared_bytes: Of a program.
        registers: Of a thread.
        stack_bytes: Of a thread: what registers could not hold.
        has_wgmma: Whether it multiplies by Hopper's matrix instruction.
        has_mma: Whether it multiplies by the older one.
        reductions: Layouts of what it sums over, as Triton writes them.
        loop_conversions: How often values change their lanes in its loops.
        files: Suffix (ptx, ttgir, cubin) to path.
    """

    name: str
    grid: tuple[int, ...]
    num_launches: int
    num_warps: int
    shared_bytes: int
    registers: int
    stack_bytes: int
    has_wgmma: bool
    has_mma: bool
    reductions: tuple[str, ...]
    loop_conversions: int
    files: dict[str, str]

    def assert_fits(self) -> None:
        """Within a Hopper's limits, nothing spilled."""
        assert self.registers <= MAX_REGISTERS, self
        assert self.registers * 32 * self.num_warps <= 65536, self
        assert self.shared_bytes <= MAX_SHARED_BYTES, self
        assert self.stack_bytes == 0, self


def compile_launches(scenario: str) -> list[CompiledKernel]:
    """Return what the function `module:name` launches, each specialisation once, in order."""
    environment = os.environ | {
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(_ROOT / "build" / "triton"),
        "PYTHONWARNINGS": "error",
    }
    command = [sys.executable, "-m", __name__, scenario]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=_ROOT)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])
    return [
        CompiledKernel(**row | {name: tuple(row[name]) for name in ("grid", "reductions")}) for row in rows
    ]


def _main(scenario: str) -> None:
    launches = _record_launches()
    module, _, name = scenario.partition(":")
    getattr(importlib.import_module(module), name)()
    print(json.dumps([asdict(_describe(*launch)) for launch in launches.values()]))


def _record_launches() -> dict[str, list]:
    """Make launches compile; return what they compiled, by hash: kernel, grid, number of launches."""
    from triton.backends.compiler import GPUTarget
    from triton.backends.driver import DriverBase
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    class Hopper(DriverBase):
        def get_current_target(self):
            return GPUTarget("cuda", 90, 32)

        def get_current_device(self):
            return 0

        def get_current_stream(self, device):
            return 0

        @classmethod
        def is_active(cls):
            return True

        def map_python_to_cpp_type(self, ty):
            raise NotImplementedError

        def get_active_torch_device(self):
            raise NotImplementedError

        def get_benchmarker(self):
            raise NotImplementedError

    driver.set_active(Hopper())
    launches: dict[str, list] = {}
    run = JITFunction.run

    def compile_instead(self, *args, grid, warmup, **kwargs):
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        launches.setdefault(kernel.hash, [kernel, grid, 0])[2] += 1
        return kernel

    JITFunction.run = compile_instead
    return launches


def _describe(kernel, grid, num_launches) -> CompiledKernel:
    import triton

    folder = _ROOT / "build" / "triton" / "out"
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for suffix in ("ptx", "ttgir", "cubin"):
        content = kernel.asm[suffix]
        path = folder / f"{kernel.metadata.name}-{kernel.hash[:12]}.{suffix}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        files[suffix] = str(path)
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    command = [tools / "cuobjdump", "--dump-resource-usage", files["cubin"]]
    usage = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    ptx, ttgir = kernel.asm["ptx"], kernel.asm["ttgir"]
    return CompiledKernel(
        name=kernel.metadata.name,
        grid=tuple(grid),
        num_launches=num_launches,
        num_warps=kernel.metadata.num_warps,
        shared_bytes=kernel.metadata.shared,
        registers=int(re.search(r"REG:(\d+)", usage)[1]),
        stack_bytes=int(re.search(r"STACK:(\d+)", usage)[1]),
        has_wgmma="wgmma.mma_async" in ptx,
        has_mma="mma.sync" in ptx,
        reductions=_reductions(ttgir),
        loop_conversions=_loop_conversions(ttgir),
        files=files,
    )


def _reductions(ttgir: str) -> tuple[str, ...]:
    """Return the types of what reduce operations take, with their layouts spelled out."""
    layouts = dict(re.findall(r"^(#\w+) = (.*)$", ttgir, re.MULTILINE))
    types = re.findall(r'"tt\.reduce"\(.*?^\s*\}\) : \((.*?)\) ->', ttgir, re.MULTILINE | re.DOTALL)
    return tuple(re.sub(r"#\w+", lambda name: layouts.get(name[0], name[0]), each) for each in types)


def _loop_conversions(ttgir: str) -> int:
    """Return how many conversions of layouts stand in loops."""
    depth = count = 0
    for line in ttgir.splitlines():
        depth += "scf.for" in line
        count += depth > 0 and "ttg.convert_layout" in line
        depth -= bool(re.match(r"\s*scf\.yield", line)) and depth > 0
    return count


if __name__ == "__main__":
    _main(sys.argv[1])
