import json
import os

import pytest
import torch

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.checkpoint.shards import INDEX_NAME
from gptoss_ray.checkpoint.synthetic import tiny_config, write_checkpoint
from gptoss_ray.checkpoint.verify import verify_checkpoint
from gptoss_ray.checkpoint.writer import write_tensors

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
EMBEDDING = "model.embed_tokens.weight"


def only_defect(folder, **options):
    (defect,) = verify_checkpoint(folder, **options)
    return defect


def tensors_of(folder):
    reader = CheckpointReader.open(folder)
    return {name: reader.read(name).clone() for name in reader.names()}


def test_a_sound_checkpoint_has_no_defect(folder):
    assert verify_checkpoint(folder) == []


def test_a_missing_shard_is_named_once(folder):
    (folder / SECOND).unlink()
    defect = only_defect(folder)
    assert (defect.file, defect.problem) == (SECOND, "missing shard")


def test_a_truncated_file_is_named_with_its_last_tensor(folder):
    os.truncate(folder / FIRST, (folder / FIRST).stat().st_size - 10)
    defect = only_defect(folder)
    assert defect.file == FIRST
    assert defect.tensor.startswith("model.layers.")
    assert "truncated" in defect.problem


def test_a_wrong_dtype_is_named(folder, edit_header):
    edit_header(folder / FIRST, lambda header: header[EMBEDDING].update(dtype="F16"))
    defect = only_defect(folder)
    assert (defect.file, defect.tensor) == (FIRST, EMBEDDING)
    assert defect.problem == "wrong dtype F16: supported is BF16 or F32"


def test_a_wrong_shape_is_named(folder, edit_json):
    edit_json(folder / "config.json", lambda config: config.update(num_local_experts=16))
    defects = verify_checkpoint(folder, fast=True)
    names = {defect.tensor for defect in defects if "wrong shape" in defect.problem}
    assert "model.layers.1.mlp.experts.down_proj_blocks" in names
    assert len(defects) == 2 * 8


def test_a_renamed_tensor_is_both_missing_and_extra(folder, edit_header, edit_json):
    edit_header(folder / FIRST, lambda header: header.update(odd=header.pop(EMBEDDING)))
    edit_json(
        folder / INDEX_NAME, lambda index: index["weight_map"].update(odd=index["weight_map"].pop(EMBEDDING))
    )
    problems = {defect.tensor: defect.problem for defect in verify_checkpoint(folder)}
    assert problems[EMBEDDING] == "missing tensor"
    assert problems["odd"].startswith("extra tensor")


def test_a_name_in_two_shards_is_a_duplicate(folder, edit_header):
    edit_header(folder / SECOND, lambda header: header.update({EMBEDDING: header.pop("lm_head.weight")}))
    problems = [(defect.file, defect.tensor, defect.problem) for defect in verify_checkpoint(folder)]
    assert (SECOND, EMBEDDING, f"duplicate name: also in {FIRST}") in problems


def test_the_index_must_say_where_the_tensor_is(folder, edit_json):
    edit_json(folder / INDEX_NAME, lambda index: index["weight_map"].update({EMBEDDING: SECOND}))
    defect = only_defect(folder)
    assert defect.tensor == EMBEDDING
    assert defect.problem == f"the index says {SECOND}, but it is in {FIRST}"


def test_a_shard_that_no_index_entry_names_is_reported(folder):
    (folder / "stale.safetensors").write_bytes((folder / FIRST).read_bytes())
    defect = only_defect(folder)
    assert (defect.file, defect.problem) == ("stale.safetensors", "no index entry names this file")


@pytest.mark.parametrize(
    "target",
    ["../model.safetensors", "/etc/passwd.safetensors", "..", "a/../../b.safetensors", "..\\x.safetensors",
     "\0.safetensors", "passwd", 7, None, "x" * 5000 + ".safetensors", "\ud800.safetensors"],
)  # fmt: skip
def test_an_index_entry_that_leaves_the_folder_is_refused(folder, edit_json, target):
    edit_json(folder / INDEX_NAME, lambda index: index["weight_map"].update({EMBEDDING: target}))
    first = verify_checkpoint(folder)[0]
    assert (first.file, first.tensor) == (INDEX_NAME, EMBEDDING)
    assert "leaves the folder" in first.problem or "is not the name" in first.problem


def test_a_link_that_leaves_the_folder_is_refused(folder, tmp_path):
    outside = (folder / SECOND).rename(tmp_path / "outside.safetensors")
    (folder / SECOND).symlink_to(outside)
    assert "is a link that leaves the folder" in verify_checkpoint(folder)[0].problem
    (folder / INDEX_NAME).unlink()
    assert "not a regular file inside the folder" in verify_checkpoint(folder)[0].problem


def test_a_link_to_itself_is_refused(folder):
    (folder / SECOND).unlink()
    (folder / SECOND).symlink_to(SECOND)
    assert "leaves the folder" in verify_checkpoint(folder)[0].problem


def test_the_links_of_a_hub_cache_are_followed(folder, tmp_path):
    snapshot = tmp_path / "models--openai--tiny" / "snapshots" / "abc"
    blobs = snapshot.parent.parent / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in folder.iterdir():
        (blobs / path.name).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    assert verify_checkpoint(snapshot) == []


@pytest.mark.parametrize("content", [b"", b"{}", b'{"weight_map": 3}', b"\xff"])
def test_a_malformed_index_is_reported(folder, content):
    (folder / INDEX_NAME).write_bytes(content)
    assert verify_checkpoint(folder)[0].file == INDEX_NAME


def test_a_folder_without_shards_is_reported(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps(ModelConfig.published("gpt-oss-20b").to_json("huggingface"))
    )
    assert "holds no *.safetensors file" in verify_checkpoint(tmp_path)[0].problem


def test_a_file_without_tensors_leaves_them_all_missing(folder):
    (folder / INDEX_NAME).unlink()
    (folder / FIRST).unlink()
    (folder / SECOND).write_bytes((2).to_bytes(8, "little") + b"{}")
    defects = verify_checkpoint(folder)
    assert {defect.problem for defect in defects} == {"missing tensor"}
    assert len(defects) == 3 + 2 * 19


def test_an_index_entry_without_a_tensor_is_reported(folder, edit_json):
    edit_json(folder / INDEX_NAME, lambda index: index["weight_map"].update(ghost=FIRST))
    defect = only_defect(folder)
    assert (defect.tensor, defect.problem) == ("ghost", f"missing tensor: the index says it is in {FIRST}")


def test_a_pipe_in_place_of_a_file_is_not_read(folder):
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    assert "not a regular file" in verify_checkpoint(folder)[0].problem


def test_without_a_config_the_files_are_checked_all_the_same(folder):
    (folder / "config.json").write_text("{")
    os.truncate(folder / FIRST, 100)
    assert [defect.file for defect in verify_checkpoint(folder)] == ["config.json", FIRST]


@pytest.mark.parametrize(
    ("name", "stored", "value"),
    [
        ("layers.1.experts.down.scales", "model.layers.1.mlp.experts.down_proj_scales", 255),
        ("layers.0.attention.sinks", "model.layers.0.self_attn.sinks", torch.nan),
        ("embedding.weight", "model.embed_tokens.weight", -torch.inf),
    ],
)
def test_a_value_that_is_no_number_is_found_at_its_place(folder, config, tmp_path, name, stored, value):
    tensors = tensors_of(folder)
    tensors[name][tuple(size - 1 for size in tensors[name].shape)] = value
    write_tensors(tmp_path / "bad", config, tensors)
    (folder / "tokenizer.json").rename(tmp_path / "bad" / "tokenizer.json")
    seen = []
    defect = only_defect(tmp_path / "bad", progress=lambda done, total: seen.append((done, total)))
    assert (defect.file, defect.tensor) == ("model.safetensors", stored)
    assert str([size - 1 for size in tensors[name].shape]) in defect.problem
    assert seen[-1][0] == seen[-1][1] > 0
    assert verify_checkpoint(tmp_path / "bad", fast=True) == []


def test_an_e2m1_code_cannot_be_wrong_so_blocks_of_255_are_sound(folder, config, tmp_path):
    tensors = tensors_of(folder)
    tensors["layers.0.experts.down.blocks"].fill_(255)
    write_tensors(tmp_path / "x", config, tensors)
    (folder / "tokenizer.json").rename(tmp_path / "x" / "tokenizer.json")
    assert verify_checkpoint(tmp_path / "x") == []


def test_the_original_layout_is_verified_by_its_own_names(tmp_path, make_tokenizer, edit_header):
    write_checkpoint(tmp_path, tiny_config(num_layers=1), layout="original")
    (tmp_path / "tokenizer.json").write_text(json.dumps(make_tokenizer(300)))
    assert verify_checkpoint(tmp_path) == []
    edit_header(
        tmp_path / "model.safetensors",
        lambda header: header["block.0.attn.qkv.weight"].update(shape=[64, 192]),
    )
    assert only_defect(tmp_path).tensor == "block.0.attn.qkv.weight"
