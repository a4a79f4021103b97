"""Commands of the command line that other installed packages bring along, such as `pmkv import` of pmkv-client.

They are entry points of the group `pmkv.commands`, each a click command, and loaded when they are asked for: a server
starts without them.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

import click

GROUP = "pmkv.commands"


class OpenGroup(click.Group):
    """A group of commands that installed packages extend."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted({*super().list_commands(context), *installed()})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Return a command of the group itself, or one that a package brings along; None if there is neither."""
        found = super().get_command(context, name)
        if found is None and (entry := installed().get(name)):
            found = entry.load()
        return found


def installed() -> dict[str, EntryPoint]:
    """Return the commands of installed packages, by name."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}
