import pytest

from gptoss_ray.errors import ConfigError
from gptoss_ray.serving.auth import ApiKeys, key_digest
from gptoss_ray.serving.key_file import REREAD_INTERVAL_S, KeyFile, read_key_file


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s

    def let_changes_show(self):
        self.now_s += REREAD_INTERVAL_S


def line(name, key, more=""):
    return f'{name}: {{sha256: "{key_digest(key)}"{more}}}\n'


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "keys.yaml"
    file.write_text(line("alice", "key-a", ", max_concurrent: 3") + line("batch", "key-b", ", share: 0.5"))
    return file


def opens(keys, key):
    try:
        return bool(keys.tenant(f"Bearer {key}", None))
    except Exception:
        return False


def test_a_key_of_the_file_opens_with_its_name_and_quota(path):
    keys = ApiKeys(["key-c"], file=path)
    alice, batch, given = (keys.tenant(None, key) for key in ("key-a", "key-b", "key-c"))
    assert (keys.name(alice), keys.name(batch), keys.name(given)) == ("alice", "batch", "key-1")
    assert keys.quota(alice).max_concurrent == 3
    assert keys.quota(batch).share == 0.5
    assert keys.quota(given).model_dump(exclude_unset=True) == {}
    assert not opens(keys, "key-d")
    assert not opens(keys, key_digest("key-a")), "the hash is not the key"


def test_a_tenant_is_the_keys_and_not_the_names(path):
    tenant = ApiKeys(file=path).tenant(None, "key-a")
    path.write_text(line("renamed", "key-a"))
    assert ApiKeys(file=path).tenant(None, "key-a") == tenant
    assert ApiKeys(["key-a"]).tenant(None, "key-a") == tenant, (
        "a cache outlives the move of a key to the file"
    )


def test_a_key_without_a_file_cannot_be_guessed_from_an_empty_one(tmp_path):
    file = tmp_path / "keys.yaml"
    file.write_text("{}")
    keys = ApiKeys(file=file)
    assert keys.are_needed
    assert not opens(keys, "")
    assert not opens(keys, "anything")


def test_a_changed_file_is_read_again_and_a_removed_key_no_longer_opens(path):
    clock = Clock()
    keys = ApiKeys(file=path, clock=clock)
    assert opens(keys, "key-a")
    path.write_text(line("carol", "key-new"))
    assert not opens(keys, "key-new"), "not looked at yet"
    clock.let_changes_show()
    assert opens(keys, "key-new")
    assert not opens(keys, "key-a")
    replaced = path.with_suffix(".new")
    replaced.write_text(line("carol", "key-old"))
    replaced.replace(path)
    clock.let_changes_show()
    assert opens(keys, "key-old")


@pytest.mark.parametrize("change", ["alice: {sha256: short}\n", "alice: [", None])
def test_a_changed_file_that_is_wrong_or_gone_leaves_the_keys_and_says_so(path, change, caplog):
    clock = Clock()
    keys = ApiKeys(file=path, clock=clock)
    if change is None:
        path.unlink()
    else:
        path.write_text(change)
    clock.let_changes_show()
    assert opens(keys, "key-a")
    assert not opens(keys, "key-z")
    assert "event=api_keys_file_refused action=keep_former_keys" in caplog.text
    path.write_text(line("alice", "key-z"))
    clock.let_changes_show()
    assert opens(keys, "key-z")


def test_an_unchanged_file_is_not_read_again(path, monkeypatch):
    clock = Clock()
    file = KeyFile(path, clock)
    before = file.entries()
    clock.let_changes_show()
    assert file.entries() is before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alice: {sha256: short}\n", r"line 1: sha256: .*pattern"),
        ("alice: {}\n", r"line 1: sha256: Field required"),
        (line("alice", "a", ", request_per_minute: 1"), r"line 1: .*did you mean 'requests_per_minute'"),
        (line("alice", "a", ", max_concurrent: 0"), r"line 1: max_concurrent: .*greater than or equal to 1"),
        (line("alice", "a", ", share: .nan"), r"line 1: share: "),
        (line("alice", "a") + line("bob", "a"), r"line 2: bob and alice have the same key"),
        (line("alice", "a") + line("alice", "b"), r"line 2: key 'alice' stands twice"),
        (line("'a b'", "a"), r"the name of a key is 'a b'"),
        (line("1", "a"), r"line 1: the name 1 is no text"),
        ("- a\n", "expected a mapping"),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_line(tmp_path, text, message):
    file = tmp_path / "keys.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_key_file(file)
