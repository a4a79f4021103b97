"""Every block of the README is run twice on one server: Python, and each line after a `$`, with the output shown.

A block fenced as `text` is the output of the Python block before it. Blocks fenced as `console` are to be read only:
they install.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.optional import needs

pytestmark = pytest.mark.compat
ROOT = Path(__file__).parent.parent.parent
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
AFTER = [*BLOCKS[1:], ("", "")]
PYTHON = [
    (text, after[1] if after[0] == "text" else None)
    for (language, text), after in zip(BLOCKS, AFTER, strict=True)
    if language == "python"
]
SHELL = [text for language, text in BLOCKS if language == "" and text.startswith("$ ")]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A server on other ports than the README's; gives what to write in their place."""
    resp, rest = free_port(), free_port()
    data = tmp_path_factory.mktemp("readme") / "data"
    options = ["--data", data, "--port", str(resp), "--rest-port", str(rest), "--capacity", "1GiB"]
    process = subprocess.Popen([sys.executable, "-m", "pmkv_server", "serve", *options])
    deadline = time.monotonic() + 60
    while not (answers(resp) and answers(rest)):
        assert process.poll() is None and time.monotonic() < deadline, "the server did not come up"
        time.sleep(0.05)
    yield {"7379": str(resp), "7380": str(rest)}
    process.terminate()
    assert process.wait(20) == 0


def test_every_block_is_run_or_meant_to_be_read() -> None:
    others = [text for language, text in BLOCKS if language == "" and text not in SHELL]
    assert all(line.startswith("make ") for text in others for line in text.splitlines()), others
    assert {language for language, _ in BLOCKS} <= {"", "python", "text", "console"}
    assert not any("&\n" in text for text in SHELL), "a command in the background has no end"


def with_ports(text: str, ports: dict[str, str]) -> str:
    return re.sub("|".join(ports), lambda found: ports[found[0]], text)


@pytest.mark.parametrize(("text", "shown"), PYTHON, ids=[text.splitlines()[1] for text, _ in PYTHON])
def test_python(text: str, shown: str | None, ports: dict[str, str], tmp_path: Path) -> None:
    if "import torch" in text:
        needs("torch")
    command = [sys.executable, "-c", with_ports(text, ports)]
    for _ in range(2):
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, result.stderr
        assert shown is None or result.stdout == shown


@pytest.mark.parametrize("text", 2 * SHELL, ids=lambda text: text.split()[1])
def test_shell(text: str, ports: dict[str, str]) -> None:
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        if shutil.which(command.split()[0]) is None:
            pytest.skip(f"{command.split()[0]} is not installed")
        command = with_ports(command, ports) + (" -n 1000" if "benchmark" in command else "")
        result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, f"{command}\n{result.stderr}"
        assert not result.stdout.startswith(("ERR", "WRONG")), f"{command}\n{result.stdout}"
        assert '"type":"pmkv:' not in result.stdout, f"{command}\n{result.stdout}"  # problem+json
        if shown:
            assert result.stdout.strip() == shown.strip().strip('"'), command
