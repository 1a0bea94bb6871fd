import json

import pytest

from gptoss_ray.checkpoint.synthetic import tiny_config, write_checkpoint
from gptoss_ray.checkpoint.tokenizer_check import CONTROL_TOKENS


@pytest.fixture
def config():
    return tiny_config(num_layers=2, vocab_size=64)


@pytest.fixture
def folder(tmp_path, config):
    """A sound checkpoint in two shards with an index and a tokenizer."""
    path = tmp_path / "checkpoint"
    write_checkpoint(path, config, seed=1, max_shard_bytes=200_000)
    assert len(list(path.glob("*.safetensors"))) == 2
    (path / "tokenizer.json").write_text(json.dumps(tokenizer(num_words=32)))
    return path


def tokenizer(num_words):
    added = [
        {"id": num_words + i, "content": token, "special": True} for i, token in enumerate(CONTROL_TOKENS)
    ]
    return {"model": {"type": "BPE", "vocab": {f"w{i}": i for i in range(num_words)}}, "added_tokens": added}


@pytest.fixture
def make_tokenizer():
    return tokenizer


@pytest.fixture
def edit_header():
    """A function that rewrites the header of a safetensors file by a function on its dict."""

    def edit(path, change):
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])

    return edit


@pytest.fixture
def edit_json():
    """A function that rewrites a JSON file by a function on its dict."""

    def edit(path, change):
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))

    return edit
