from __future__ import annotations

import ctypes
import time
from array import array
from types import SimpleNamespace

from gptoss_ray.bench.native_calls import _WATCHED, watching_native_calls
from gptoss_ray.kernels.native.library import CLayer


def test_time_inside_calls_is_counted_and_the_functions_are_put_back():
    def slow(*args: object) -> int:
        time.sleep(0.01)
        return -1

    functions = SimpleNamespace(**dict.fromkeys(_WATCHED, slow))
    with watching_native_calls(SimpleNamespace(functions=functions)) as calls:
        assert functions.gr_gate() == -1
        functions.gr_linear(1, 2.0)
        seconds, num_experts = calls.read()
        assert seconds >= 0.02 and num_experts == 0
        assert calls.read() == (0.0, 0.0)
    assert functions.gr_gate is slow


def test_experts_that_get_rows_are_counted_over_the_layers():
    functions = SimpleNamespace(**dict.fromkeys(_WATCHED, lambda *args: 0))
    layers = [array("q", [0, 3, 1, 0]), array("q", [1, 1, 1, 1])]
    with watching_native_calls(SimpleNamespace(functions=functions)) as calls:
        for counts in layers:
            functions.gr_experts(None, None, None, len(counts), counts.buffer_info()[0], None)
        assert calls.read()[1] == 3.0


def test_experts_that_get_rows_are_counted_where_all_layers_are_one_call():
    functions = SimpleNamespace(**dict.fromkeys(_WATCHED, lambda *args: 0))
    counts = [array("q", [0, 3, 1, 0]), array("q", [1, 1, 1, 1])]
    layers = (CLayer * 2)(*(CLayer(num_experts=4, num_rows=each.buffer_info()[0]) for each in counts))
    with watching_native_calls(SimpleNamespace(functions=functions)) as calls:
        functions.gr_layers(None, ctypes.addressof(layers), len(layers), 1, None, None, None)
        assert calls.read()[1] == 3.0
        assert calls.read()[1] == 0.0
