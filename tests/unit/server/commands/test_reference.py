"""docs/COMMANDS.md is what the command table and the OpenAPI document say."""

from __future__ import annotations

from pathlib import Path

from pmkv_server.commands import COMMANDS
from pmkv_server.commands.reference import entries, reference

COMMITTED = Path(__file__).parents[4] / "docs/COMMANDS.md"


def test_the_committed_file_is_up_to_date() -> None:
    assert COMMITTED.read_text() == reference(), "run `make docs`"


def test_every_command_and_subcommand_is_listed_once() -> None:
    text = reference()
    names = [entry.name.upper().replace("|", " ") for entry in entries()]
    assert len(names) == len(set(names)) >= len(COMMANDS)
    assert all(text.count(f"\n| `{name}` |") == 1 for name in names)


def test_own_commands_show_their_syntax() -> None:
    for entry in entries():
        if "." in entry.name:
            assert {line.split()[0] for line in entry.syntax} == {entry.name.upper()}, entry.name


def test_lines_are_short() -> None:
    assert max(map(len, reference().splitlines())) <= 120
