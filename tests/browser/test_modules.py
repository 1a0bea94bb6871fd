"""The page's modules without a browser, under node."""

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser
FOLDER = Path(__file__).parent / "modules"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.test.mjs")), ids=lambda path: path.name)
def test_what_a_module_says_of_itself_holds(path):
    node = shutil.which("node")
    if not node:
        pytest.skip("node is not installed")
    command = (node, "--test", str(path))
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# fail 0" in done.stdout or "ℹ fail 0" in done.stdout
    assert "# tests 0" not in done.stdout
