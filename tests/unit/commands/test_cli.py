from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
import gptoss_ray.cli
print(*{"torch", "ray", "grpc"} & sys.modules.keys())
"""


def test_the_command_starts_without_the_libraries_that_take_seconds_to_import():
    done = subprocess.run([sys.executable, "-c", CODE], check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout.split() == []
