"""These tests run Triton's kernels on CPU tensors, in its interpreter."""

from tests.support.triton_interpreter import improve_interpreter

improve_interpreter()
