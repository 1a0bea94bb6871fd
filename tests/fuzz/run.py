"""`python -m tests.fuzz.run TARGET [libFuzzer options]`: feed a target for as long as told, by atheris.

Needs `pip install atheris`. What is worth keeping lies in build/fuzz/TARGET, and what crashed it, too.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["gptoss_ray", "yaml"]):
    from tests.fuzz.targets import SEEDS, TARGETS


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python -m tests.fuzz.run {'|'.join(TARGETS)} [-max_total_time=60 ...]")
    name, *options = sys.argv[1:]
    corpus = Path("build/fuzz") / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[name]):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], str(corpus), f"-artifact_prefix={corpus}/", *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
