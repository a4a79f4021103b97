"""docs/PUBLISHING.md and the client's README, run from top to bottom: Python blocks in one session, each line after a
`$` with what it shows, where `...` stands for anything."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.served import Served, served

pytestmark = pytest.mark.compat
ROOT = Path(__file__).parent.parent.parent
PORTS = re.compile(r"\b(7379|7380)\b")
DECORATION = re.compile(r'^(\d+\) )?(\((integer|error)\) )?"?(.*?)"?$', re.MULTILINE)  # what redis-cli adds on a screen


def blocks(path: str) -> list[tuple[str, str]]:
    """(language, text) of each."""
    return re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / path).read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def server() -> Iterator[Served]:
    with served("--pool", ":memory:", "--capacity", "1GiB", "--rest-port", "0") as running:
        yield running


def run_python(text: str, session: dict[str, Any]) -> None:
    exec(compile(text, "an example", "exec"), session)


def run_shell(text: str) -> None:
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, f"{command}\n{result.stderr}"
        wanted = ".*".join(map(re.escape, DECORATION.sub(r"\4", shown.strip()).split("...")))
        assert re.fullmatch(wanted, result.stdout.strip(), re.DOTALL), f"{command}\n{result.stdout}"
        assert ("pmkv:" in result.stdout) == ("pmkv:" in shown), f"{command}\n{result.stdout}"  # problem+json


@pytest.mark.parametrize("path", ["docs/PUBLISHING.md", "client/README.md"])
def test_every_line(path: str, server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for program in ("redis-cli", "curl"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    monkeypatch.chdir(tmp_path)
    rest = re.search(r"REST on \S+?:(\d+)", server.log)[1]
    session: dict[str, Any] = {}
    for language, text in blocks(path):
        run = PORTS.sub(lambda found: {"7379": str(server.port), "7380": rest}[found[0]], text)
        if language == "python":
            run_python(run, session)
        else:
            assert text.startswith("$ "), text
            run_shell(run)
