"""Commands that installed packages bring along."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import click
import pytest

from pmkv_server import installed_commands
from pmkv_server.cli import main
from pmkv_server.installed_commands import OpenGroup


def test_commands_of_the_client_are_there() -> None:
    context = click.Context(main)
    assert {"import", "export", "serve"} <= set(main.list_commands(context))
    assert main.get_command(context, "import").name == "import"


def test_a_package_is_loaded_when_its_command_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {"more": EntryPoint("more", "click:version_option", "x"), "own": EntryPoint("own", "no.such:thing", "x")}
    monkeypatch.setattr(installed_commands, "installed", lambda: entries)
    group = OpenGroup(commands={"own": click.Command("own")})
    context = click.Context(group)
    assert group.list_commands(context) == ["more", "own"]
    assert group.get_command(context, "own") is group.commands["own"]
    assert group.get_command(context, "more") is click.version_option
    assert group.get_command(context, "none") is None
