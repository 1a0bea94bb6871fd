"""NativeLibrary: the C interface of the native kernels (src/api.h), found and checked once."""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_uint64, c_void_p
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any

from gptoss_ray.kernels.native.build import LIBRARY, SOURCES, build_id, failure_file, remedy

# Names a library elsewhere: a build with sanitizers, say.
LIBRARY_VARIABLE = "GPTOSS_RAY_NATIVE_LIBRARY"

# In the order of enum gr_isa, from the one that runs everywhere to the fastest.
INSTRUCTION_SETS = ("portable", "avx2", "avx512")


class Activations(IntEnum):
    """What a matrix multiplies: rows as they are, or quantized to 8 bits first (enum gr_activations)."""

    BF16 = 0
    INT8 = 1


class CMatrix(ctypes.Structure):
    """gr_matrix: a packed matrix."""

    _fields_ = (
        ("format", c_int64),
        ("activations", c_int64),
        ("n", c_int64),
        ("k", c_int64),
        ("codes", c_void_p),
        ("scales", c_void_p),
        ("bias", c_void_p),
    )


class CAttention(ctypes.Structure):
    """gr_attention_args: one call of attention."""

    _fields_ = (
        ("num_tokens", c_int64),
        ("num_heads", c_int64),
        ("num_kv_heads", c_int64),
        ("head_dim", c_int64),
        ("block_size", c_int64),
        ("num_blocks", c_int64),
        ("window", c_int64),
        ("table_stride", c_int64),
        ("qkv", c_void_p),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("positions", c_void_p),
        ("sequence_index", c_void_p),
        ("slot_mapping", c_void_p),
        ("block_table", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("sinks", c_void_p),
        ("out", c_void_p),
    )


class CLayer(ctypes.Structure):
    """gr_layer: a layer whose experts are all here."""

    _fields_ = (
        ("qkv", c_void_p),
        ("out", c_void_p),
        ("attention_norm", c_void_p),
        ("sinks", c_void_p),
        ("norm", c_void_p),
        ("gate_weight", c_void_p),
        ("gate_bias", c_void_p),
        ("gate_up", c_void_p),
        ("down", c_void_p),
        ("num_rows", c_void_p),
        ("num_experts", c_int64),
        ("num_chosen", c_int64),
        ("is_sliding", c_int64),
        ("cache_index", c_int64),
        ("attention_eps", c_float),
        ("eps", c_float),
        ("alpha", c_float),
        ("limit", c_float),
    )


# Result and arguments. Structures go by address: what they need of Python is done once, not at every call.
_P, _N = c_void_p, c_int64
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "gr_build_id": (c_char_p, ()),
    "gr_last_error": (c_char_p, ()),
    "gr_best_isa": (c_int, ()),
    "gr_create": (c_void_p, (c_int, c_int, POINTER(c_int32))),
    "gr_destroy": (None, (_P,)),
    "gr_pack_mxfp4": (c_int, (_P, _P, _P, _N, _N, _P, _P)),
    "gr_pack_bf16": (c_int, (_P, _P, _N, _N, _P)),
    "gr_pack_int8": (c_int, (_P, _P, _N, _N, _P, _P)),
    "gr_linear": (c_int, (_P, _P, _P, _N, _P, c_int)),
    "gr_norm_linear": (c_int, (_P, _P, _P, _P, c_float, _N, _P, c_int)),
    "gr_linear_add": (c_int, (_P, _P, _P, _P, _N, _P)),
    "gr_attention": (c_int, (_P, _P)),
    "gr_attention_layer": (c_int, (_P, _P, _P, _P, c_float, _P, _P)),
    "gr_gate": (c_int, (_P, _P, _P, c_float, _P, _P, _N, _N, _N, _N, _P, _P, _P)),
    "gr_experts": (c_int, (_P, _P, _P, _N, _P, _P, c_float, c_float, _P)),
    "gr_combine": (c_int, (_P, _P, _P, _P, _N, _N, _N, _P)),
    "gr_layers": (c_int, (_P, _P, _N, _N, _P, _P, _P)),
    "gr_measure_read": (c_int, (_P, _P, c_size_t, POINTER(c_uint64))),
    "gr_measure_dots": (c_int, (_P, _N, c_int, _P)),
}


@dataclass(frozen=True)
class NativeLibrary:
    """A loaded library.

    Attributes:
        path: Where it lies.
        build_id: Hash of the sources it was built from.
        instruction_sets: Those that run on this machine, the fastest last.
        functions: The functions of src/api.h; those that return int give 0 or a negative number.
    """

    path: Path
    build_id: str
    instruction_sets: tuple[str, ...]
    functions: ctypes.CDLL

    @property
    def instruction_set(self) -> str:
        """The fastest of `instruction_sets`."""
        return self.instruction_sets[-1]

    def last_error(self) -> str:
        """Return what was wrong with the last call of this thread that failed."""
        message: bytes | None = self.functions.gr_last_error()
        return (message or b"the call failed without saying why").decode("utf-8", "replace")


@cache
def find_library() -> NativeLibrary | str:
    """Return the library of this installation (or of $GPTOSS_RAY_NATIVE_LIBRARY), or why there is none."""
    named = os.environ.get(LIBRARY_VARIABLE)
    return load_library(Path(named)) if named else load_library()


def load_library(path: Path = LIBRARY, sources: Path = SOURCES) -> NativeLibrary | str:
    """Load a library and check that it was built from `sources`.

    Returns:
        The library; or one sentence that says why it cannot be used, and the remedy.
    """
    if not path.is_file():
        return _why_missing(path)
    try:
        functions = ctypes.CDLL(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(functions, name)
            function.restype, function.argtypes = result, arguments
    except OSError as error:
        return f"the native kernels cannot be loaded ({error}); build them on this machine with {remedy()}"
    except AttributeError as error:
        return f"{path} is not a library of these kernels ({error}); build it again with {remedy()}"
    found = functions.gr_build_id().decode()
    if found != build_id(sources):
        return f"the native kernels at {path} were built from other sources; build them again with {remedy()}"
    best = functions.gr_best_isa()
    if not 0 <= best < len(INSTRUCTION_SETS):
        return f"the native kernels do not know this processor (instruction set {best})"
    return NativeLibrary(path, found, INSTRUCTION_SETS[: best + 1], functions)


def _why_missing(path: Path) -> str:
    try:
        reason = failure_file(path).read_text(encoding="utf-8").strip()
    except OSError:
        return f"the native kernels are not built (no file {path}); build them with {remedy()}"
    return f"the native kernels could not be built: {reason}; then run {remedy()}"
