"""The image and the compose file, as far as they can be judged without a Docker engine."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICE = COMPOSE["services"]["pmkv"]
DOCKERFILE = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
INSTRUCTIONS = [line.split(maxsplit=1) for line in DOCKERFILE.splitlines() if line.strip() and line[0] != "#"]
FINAL = INSTRUCTIONS[max(i for i, (word, _) in enumerate(INSTRUCTIONS) if word == "FROM") :]


def final(word: str) -> list[str]:
    return [rest for instruction, rest in FINAL if instruction == word]


def test_ports_are_published_on_loopback_only() -> None:
    assert {tuple(port.split(":")) for port in SERVICE["ports"]} == {
        ("127.0.0.1", "7379", "7379"),
        ("127.0.0.1", "7380", "7380"),
    }


def test_compose_wants_a_password_and_keeps_the_data() -> None:
    assert SERVICE["environment"]["PMKV_PASSWORD"].startswith("${PMKV_PASSWORD:?")
    assert SERVICE["volumes"] == ["data:/data"]
    assert "data" in COMPOSE["volumes"]
    assert int(SERVICE["stop_grace_period"].removesuffix("s")) > 5  # stopping takes less than 5 s


def test_the_image_is_the_version_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert SERVICE["image"] == f"pmkv:{project['version']}"


def test_the_image_runs_as_a_user_of_its_own() -> None:
    words = [instruction for instruction, _ in FINAL]
    assert final("USER") == ["pmkv"]
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert "useradd --system" in final("RUN")[0]
    assert final("VOLUME") == ["/data"]
    assert final("EXPOSE") == ["7379 7380"]


def test_the_build_is_in_stages_and_compiles_for_a_pinned_processor() -> None:
    stages = [rest for word, rest in INSTRUCTIONS if word == "FROM"]
    assert stages[-2:] == ["cpu-${TARGETARCH} AS builder", "cpu-${TARGETARCH} AS runtime"]
    assert "NUMBA_CPU_NAME=generic" in DOCKERFILE
    assert DOCKERFILE.count("ENV NUMBA_CPU_FEATURES=") == 2
    assert DOCKERFILE.index("python -m pmkv.kernels") < DOCKERFILE.index("AS runtime")
    assert not any("pip install" in rest for rest in final("RUN"))


def test_stop_signals_and_arguments_reach_the_server() -> None:
    assert final("ENTRYPOINT") == ['["pmkv"]']  # a shell in between would keep SIGTERM to itself
    assert final("CMD") == ['["serve"]']
    assert "healthcheck.py" in final("HEALTHCHECK")[0]


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for word, rest in INSTRUCTIONS:
        if word == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert source.split("/")[0] in allowed, source


@pytest.mark.parametrize(
    ("password", "answer", "code"),
    [
        (None, b"+PONG\r\n", 0),
        ("secret", b"+OK\r\n+PONG\r\n", 0),
        (None, b"-LOADING pmkv is loading the dataset in memory\r\n", 1),
        ("wrong", b"-WRONGPASS invalid username-password pair or user is disabled.\r\n-NOAUTH\r\n", 1),
    ],
)
def test_health_check(password: str | None, answer: bytes, code: int) -> None:
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve_one() -> None:
            connection, _ = server.accept()
            with connection:
                asked.append(connection.recv(1024))
                connection.sendall(answer)

        thread = threading.Thread(target=serve_one)
        thread.start()
        environment = {"PMKV_PORT": str(server.getsockname()[1])} | ({"PMKV_PASSWORD": password} if password else {})
        result = subprocess.run([sys.executable, ROOT / "deploy/healthcheck.py"], env=environment, timeout=20)
        thread.join()
    assert result.returncode == code
    assert asked[0].endswith(b"*1\r\n$4\r\nPING\r\n")
    assert (b"AUTH" in asked[0]) == bool(password)


def test_health_check_without_a_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    result = subprocess.run(
        [sys.executable, ROOT / "deploy/healthcheck.py"],
        env={"PMKV_PORT": str(port)},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert result.returncode == 1
    assert "no answer" in result.stderr
