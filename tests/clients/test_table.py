"""docs/clients.md, which `make test-clients` writes."""

from tests.support.client_environments import CLIENTS, ROOT, pinned_versions
from tests.support.clients_table import PASSED, Check, Table, all_checks, listed

DOCUMENT = (ROOT / "docs/clients.md").read_text(encoding="utf-8")


def test_the_table_lists_every_check_of_every_client_with_its_versions():
    assert list(listed(DOCUMENT)) == [check.row(PASSED) for check in all_checks()]


def test_every_client_is_checked_and_pinned():
    folders = {folder for folder in CLIENTS.iterdir() if folder.is_dir() and folder.name != "__pycache__"}
    # Node.js runs others.
    assert {check.file.parent for check in all_checks()} == folders - {CLIENTS / "node"}
    for folder in folders:
        assert all(version[0].isdigit() for version in pinned_versions(folder).values())
        assert pinned_versions(folder)


def test_a_check_has_passed_when_all_its_parameters_and_phases_have():
    check = next(all_checks())
    name = f"{check.file.relative_to(ROOT).as_posix()}::{check.function}"
    for outcomes, result in (((PASSED, PASSED), PASSED), ((PASSED, "FAILED", PASSED), "FAILED")):
        table = Table()
        for number, outcome in enumerate(outcomes):
            table.add(f"{name}[{number}]", outcome)
        assert check.row(result) in table.text()
    assert check.row("not run") in Table().text()
    assert Check(check.file, "test_a_server_s_word").row("x").endswith("| a server's word | x |\n")
