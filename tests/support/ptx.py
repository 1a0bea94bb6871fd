"""The few PTX instructions that our inline assembly uses, on arrays of 32-bit registers."""

from __future__ import annotations

import re

import numpy as np

from tests.support.bfloat16 import rounded, widened


def run_ptx(text: str, inputs: list[np.ndarray], num_outputs: int) -> list[np.ndarray]:
    """Run a block on inputs uint32; operands $0 … are the outputs, those behind them the inputs.

    Raises:
        ValueError: It uses what is not here.
    """
    registers = {f"${num_outputs + index}": value for index, value in enumerate(inputs)}
    body = text.strip().removeprefix("{").removesuffix("}")
    for line in filter(None, (line.strip() for line in body.split(";"))):
        if line.startswith(".reg"):
            continue
        name, operands = line.split(maxsplit=1)
        target, *sources = (operand.strip() for operand in operands.split(","))
        values = [registers[each] if each in registers else np.uint32(int(each, 0)) for each in sources]
        registers[target] = _execute(name, values)
    return [registers[f"${index}"] for index in range(num_outputs)]


def _execute(name: str, values: list[np.ndarray]) -> np.ndarray:
    first, second = values
    if re.fullmatch(r"(and|or)\.b32", name):
        return first & second if name.startswith("and") else first | second
    if name in ("shl.b32", "shr.u32"):
        return first << second if name == "shl.b32" else first >> second
    if name == "mul.rn.bf16x2":
        return rounded(_halves(first) * _halves(second)).view(np.uint32)[..., 0]
    raise ValueError(f"{name} is not implemented")


def _halves(register: np.ndarray) -> np.ndarray:
    """Return the two bfloat16 values of each register, the low one first."""
    return widened(np.ascontiguousarray(register)[..., None].view(np.uint16))
