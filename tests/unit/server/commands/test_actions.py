"""Actions of waves: different numbers, and each of them is what some command of the table does."""

from __future__ import annotations

from pmkv_server.commands import COMMANDS, actions

NUMBERS = {name: value for name, value in vars(actions).items() if name.isupper()}
OPTIONS = ("NX", "XX", "GET_OLD", "KEEPTTL", "EXPIRES", "RELATIVE", "UNEXPIRE", "GT", "LT")


def test_options_are_different_bits() -> None:
    bits = [NUMBERS[name] for name in OPTIONS]
    assert sum(bits) == (1 << len(bits)) - 1


def test_every_action_is_one_of_the_table() -> None:
    own = {value for name, value in NUMBERS.items() if name not in OPTIONS}
    named = {entry.action[0] for entry in COMMANDS.values() if entry.action is not None}
    assert named == own and len(own) == len(NUMBERS) - len(OPTIONS) and 0 not in own
