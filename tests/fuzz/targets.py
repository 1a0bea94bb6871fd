"""What a fuzzer feeds: bytes to each reader of what nobody vouches for. Other exceptions are bugs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from gptoss_ray.checkpoint.safetensors_file import parse_header, read_header
from gptoss_ray.config import ServingConfig
from gptoss_ray.errors import ConfigError, InvalidRequestError
from gptoss_ray.harmony.stream_parser import StreamParser
from gptoss_ray.serving.limits import check_json_size
from gptoss_ray.serving.openai_types import ChatCompletionRequest, CompletionRequest, parse_json
from gptoss_ray.yaml_document import YamlDocument
from tests.support.ingresses import NUM_RANKS, encoding


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="gptoss-fuzz-"))


def _file(name: str, data: bytes) -> Path:
    path = _folder() / name
    path.write_bytes(data)
    return path


def _token_ids(data: bytes) -> list[int]:
    """Two bytes are a token; of the ids beyond the vocabulary's end some are control tokens, some nothing."""
    return [int.from_bytes(data[at : at + 2], "little") % (NUM_RANKS + 60) for at in range(0, len(data), 2)]


def harmony(data: bytes) -> None:
    """The parser raises on nothing, splits no differently by the cut of its input, and never shows markup."""
    token_ids = _token_ids(data)
    whole, pieces = StreamParser(encoding()), StreamParser(encoding())
    said = [*whole.feed(token_ids), *whole.finish()]
    told = [delta for token_id in token_ids for delta in pieces.feed((token_id,))] + pieces.finish()
    assert "".join(each.text for each in said) == "".join(each.text for each in told)
    assert whole.repairs == pieces.repairs
    assert not any("\udcff" in delta.text for delta in said)


def safetensors(data: bytes) -> None:
    """A header is entries inside the file, or defects; from a file and from memory alike."""
    found, in_memory = (
        read_header(_file("x.safetensors", data)),
        parse_header("x.safetensors", memoryview(data)),
    )
    assert found.entries == in_memory.entries
    assert [str(defect) for defect in found.defects] == [str(defect) for defect in in_memory.defects]
    assert all(str(defect).isprintable() for defect in found.defects)
    assert all(8 <= entry.begin <= entry.end <= len(data) for entry in found.entries.values())


def configuration(data: bytes) -> None:
    """A file is a configuration, or one ConfigError that names it."""
    path = _file("serve.yaml", data)
    try:
        YamlDocument.read(path).validate(ServingConfig)
    except ConfigError as error:
        assert str(error).startswith(str(path))


def request_body(data: bytes) -> None:
    """A body is a request, or one InvalidRequestError; its values are counted without parsing it."""
    for kind in (ChatCompletionRequest, CompletionRequest):
        try:
            check_json_size(data)
            parse_json(kind, data)
        except InvalidRequestError as error:
            assert error.message


TARGETS: dict[str, Callable[[bytes], None]] = {
    "harmony": harmony,
    "safetensors": safetensors,
    "configuration": configuration,
    "request_body": request_body,
}

_HEADER = b'{"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}'
SEEDS: dict[str, list[bytes]] = {
    "harmony": [
        b"".join(
            id_.to_bytes(2, "little")
            for id_ in encoding().encode_with_special(
                "<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>commentary "
                "to=functions.f<|constrain|>json<|message|>{}<|call|>"
            )
        )
    ],
    "safetensors": [len(_HEADER).to_bytes(8, "little") + _HEADER + b"\0\0"],
    "configuration": [
        b"models:\n  - name: m\n    checkpoint: demo\n    engine: {max_num_sequences: 8}\napi_keys: [a]\n",
        b"models: &a [!x {b: *a}]\n---\n",
    ],
    "request_body": [
        b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 1e3, "stop": ["a"]}',
        b'{"model": "m", "prompt": [[1, 2], [3]], "logit_bias": {"1": -5}, "n": 2}',
    ],
}
