"""These tests run Triton's kernels on CPU tensors, in its interpreter."""

import importlib.util

if importlib.util.find_spec("triton") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    from tests.support.triton_interpreter import improve_interpreter

    improve_interpreter()
