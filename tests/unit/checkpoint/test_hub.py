import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from gptoss_ray.checkpoint.hub import resolve_folder
from gptoss_ray.errors import CheckpointError


def without_init(kind):
    return kind.__new__(kind)


@pytest.fixture
def fetched(monkeypatch, tmp_path):
    """The calls of snapshot_download, and a list for the error it is to raise."""
    calls: list = []
    errors: list = []

    def snapshot_download(repository, **options):
        calls.append((repository, options))
        if errors:
            raise errors[0]
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls, errors


def test_a_local_folder_is_used_as_it_is(folder, fetched):
    assert resolve_folder(folder) == folder
    assert resolve_folder(str(folder)) == folder
    assert fetched[0] == []


def test_the_demo_lies_in_the_package():
    path = resolve_folder("demo")
    assert path.parts[-3:] == ("gptoss_ray", "checkpoint", "demo")


def test_a_hub_id_fetches_weights_and_json_but_not_the_other_copies(fetched, tmp_path):
    from huggingface_hub.utils import filter_repo_objects

    ours = ["config.json", "model-00000-of-00002.safetensors", "tokenizer.json"]
    original = ["original/config.json", "original/model.safetensors"]
    files = [*ours, *original, "README.md", "metal/model.bin", "chat_template.jinja"]
    assert resolve_folder("openai/gpt-oss-20b") == tmp_path
    options = fetched[0][0][1]
    assert set(filter_repo_objects(files, **options)) == set(ours)
    assert resolve_folder("openai/gpt-oss-20b", layout="original") == tmp_path / "original"
    assert set(filter_repo_objects(files, **fetched[0][1][1])) == set(original)


def test_who_needs_only_shape_and_vocabulary_fetches_no_weights(fetched, tmp_path):
    from huggingface_hub.utils import filter_repo_objects

    files = ["config.json", "model-00000-of-00002.safetensors", "tokenizer.json", "original/config.json"]
    assert resolve_folder("openai/gpt-oss-20b", with_weights=False) == tmp_path
    assert set(filter_repo_objects(files, **fetched[0][0][1])) == {"config.json", "tokenizer.json"}


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (without_init(RepositoryNotFoundError), "check the spelling"),
        (without_init(LocalEntryNotFoundError), "go online once"),
        (without_init(HfHubHTTPError), "try again"),
        (OSError("disk full"), "disk full"),
    ],
)
def test_a_failed_fetch_names_the_remedy(fetched, error, remedy):
    fetched[1].append(error)
    with pytest.raises(CheckpointError, match=remedy):
        resolve_folder("openai/gpt-oss-20b")


@pytest.mark.parametrize("source", ["/no/such/folder", "nothing", "a/b/c", "../x"])
def test_what_is_neither_folder_nor_id_is_refused_without_the_network(fetched, source):
    with pytest.raises(CheckpointError, match="no such folder"):
        resolve_folder(source)
    assert fetched[0] == []
