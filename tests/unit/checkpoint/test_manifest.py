import shutil
import subprocess

import pytest

from gptoss_ray.checkpoint.fingerprint import content_identity
from gptoss_ray.checkpoint.manifest import MANIFEST_NAME, check_manifest, read_manifest, write_manifest
from gptoss_ray.checkpoint.synthetic import write_checkpoint
from gptoss_ray.checkpoint.verify import verify_checkpoint
from gptoss_ray.errors import CheckpointError, ConfigError
from gptoss_ray.ranks.rank_facts import RankFacts, check_fingerprints, verify_files


def flip_last_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_manifest_lists_every_file_and_sha256sum_agrees(folder):
    path = write_manifest(folder)
    assert set(read_manifest(folder)) == {
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    }
    assert check_manifest(folder) == []
    if shutil.which("sha256sum"):
        subprocess.run(
            ["sha256sum", "--check", "--strict", path.name], cwd=folder, check=True, capture_output=True
        )


def test_one_flipped_bit_is_found_and_its_file_named(folder):
    write_manifest(folder)
    flip_last_byte(folder / "model-00002-of-00002.safetensors")
    (defect,) = check_manifest(folder)
    assert (defect.file, defect.problem) == (
        "model-00002-of-00002.safetensors",
        "its content is not what SHA256SUMS says",
    )
    assert defect in verify_checkpoint(folder)
    assert verify_checkpoint(folder, fast=True) == []


def test_a_file_that_is_gone_or_was_added_is_named(folder):
    write_manifest(folder)
    (folder / "tokenizer.json").unlink()
    (folder / "added.json").write_text("{}")
    assert [defect.file for defect in check_manifest(folder)] == ["added.json", "tokenizer.json"]


def test_progress_ends_at_all_bytes(folder):
    seen = []
    write_manifest(folder, lambda done, total: seen.append((done, total)))
    total = sum(path.stat().st_size for path in folder.iterdir() if path.name != MANIFEST_NAME)
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)


@pytest.mark.parametrize(
    "text",
    [
        "nonsense\n",
        f"{'a' * 64}  ../../etc/passwd\n",
        f"{'a' * 63}  a.json\n",
        f"{'a' * 64}  a\n" * 2,
        "\xe9\n",
    ],
)
def test_a_manifest_that_is_none_is_refused_and_leads_nowhere(folder, text):
    (folder / MANIFEST_NAME).write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=MANIFEST_NAME):
        read_manifest(folder)
    assert [defect.file for defect in verify_checkpoint(folder)] == [MANIFEST_NAME]


def test_copies_are_the_same_whenever_they_were_written_and_others_are_not(folder, config, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, copy_function=shutil.copyfile)
    assert content_identity(copy) == content_identity(folder)
    flip_last_byte(copy / "model-00001-of-00002.safetensors")
    assert content_identity(copy) != content_identity(folder)
    other = tmp_path / "other"
    write_checkpoint(other, config, seed=2, max_shard_bytes=200_000)
    shutil.copy(folder / "tokenizer.json", other)
    assert content_identity(other) != content_identity(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", MANIFEST_NAME])
def test_what_says_how_to_read_the_weights_counts_too(folder, name):
    write_manifest(folder)
    before = content_identity(folder)
    (folder / name).write_text((folder / name).read_text() + "\n")
    assert content_identity(folder) != before


def test_ranks_with_different_checkpoints_or_numerics_form_no_group():
    def facts(address, fingerprint="f", checkpoint="c"):
        return RankFacts("host", address, 1 << 30, fingerprint, checkpoint, True)

    check_fingerprints([facts("10.0.0.1"), facts("10.0.0.2")])
    with pytest.raises(
        CheckpointError, match=r"rank 0 on 10\.0\.0\.1 is c, but that of rank 1 on 10\.0\.0\.2 is d"
    ):
        check_fingerprints([facts("10.0.0.1"), facts("10.0.0.2", checkpoint="d")])
    with pytest.raises(ConfigError, match="answers would depend on the rank"):
        check_fingerprints([facts("10.0.0.1"), facts("10.0.0.2", fingerprint="g")])


def test_a_node_that_is_to_verify_its_files_needs_a_manifest_and_right_files(folder):
    with pytest.raises(CheckpointError, match="has no SHA256SUMS"):
        verify_files(str(folder), lambda done, total: None)
    write_manifest(folder)
    verify_files(str(folder), lambda done, total: None)
    flip_last_byte(folder / "model-00001-of-00002.safetensors")
    with pytest.raises(CheckpointError, match="model-00001-of-00002"):
        verify_files(str(folder), lambda done, total: None)
