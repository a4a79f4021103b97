"""The house style as tests: what a reader may rely on in every file. Looks at sources only, imports nothing of pmkv."""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DISTRIBUTED = {"pmkv": "pmkv", "server": "pmkv_server", "client": "pmkv_client"}  # folder: import package
ALL_FOLDERS = [*DISTRIBUTED, "bench", "deploy", "examples", "tests"]
FILE, FUNCTION = 800, 60  # lines; ruff watches their length
SERVER_MAY_IMPORT = {
    "pmkv", "pmkv.errors", "pmkv.tools.check", "pmkv.tools.dump", "pmkv.tools.salvage", "pmkv.runtime.jit",
    "pmkv.runtime.scheduling",
}  # fmt: skip

LEFTOVER = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX)\b")
MACHINE = re.compile("[\"'\\s(=]/(tmp|home|root|work|Users)/")

# A function that is one table or one straight loop may be longer; each has its reason here.
LONG_FUNCTIONS: dict[str, str] = {}

# Sources without a test module of their own, and what tests them instead.
TESTED_ELSEWHERE: dict[str, str] = {}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py") if "build" not in path.parts)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=name(path))


every_file = pytest.mark.parametrize("path", sources(*ALL_FOLDERS), ids=name)
every_source = pytest.mark.parametrize("path", sources(*DISTRIBUTED), ids=name)


@every_file
def test_a_file_is_short_and_finished(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= FILE, f"{len(lines)} lines; a file has at most {FILE}: which second idea can move out?"
    for number, line in enumerate(lines, 1):
        assert not LEFTOVER.search(line), f"line {number}: finish it, or leave it out: {line.strip()}"
        assert not MACHINE.search(line), f"line {number} names a path of one machine: {line.strip()}"


def functions(path: Path) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{name(path)}:{node.name}", node


@every_file
def test_functions_are_short(path: Path) -> None:
    for label, node in functions(path):
        length = node.end_lineno - node.lineno + 1
        assert length <= FUNCTION or label in LONG_FUNCTIONS, f"{label} has {length} lines, more than {FUNCTION}"


@every_file
def test_a_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(tree(path)) or not path.read_text().strip(), "the first lines say what the module is"


def module_of(path: Path) -> str:
    folder, *rest = path.relative_to(ROOT).with_suffix("").parts
    parts = rest if rest[0] == DISTRIBUTED.get(folder) else [folder, *rest]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(module or module.name, whether it is imported when the module itself is)."""
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    at_once = {id(node) for node in top_level(tree(path).body)}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            yield base, id(node) in at_once
            yield from ((f"{base}.{alias.name}", id(node) in at_once) for alias in node.names)


def top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run at import; `if TYPE_CHECKING:` does not."""
    for node in body:
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from top_level([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            yield from top_level([*node.body, *node.orelse, *node.finalbody])


@pytest.mark.parametrize("folder", DISTRIBUTED)
def test_no_import_circles(folder: str) -> None:
    modules = {module_of(path): path for path in sources(folder)}
    edges = {
        module: {target for target, at_once in imports(path) if at_once and target in modules and target != module}
        for module, path in modules.items()
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"import circle: {' -> '.join([*trail[trail.index(module) :], module])}"
        if module not in done:
            for target in sorted(edges[module]):
                visit(target, (*trail, module))
            done.add(module)

    for module in sorted(modules):
        visit(module, ())


@pytest.mark.parametrize("path", sources("server"), ids=name)
def test_the_server_uses_only_faces(path: Path) -> None:
    rooms = {module_of(source) for source in sources("pmkv")}
    for target, _ in imports(path):
        hidden = target in rooms and target not in SERVER_MAY_IMPORT
        assert not hidden, (
            f"{name(path)} imports {target}; the server uses pmkv, its errors, check, dump, salvage, compile and turns"
        )


@every_source
def test_every_source_has_a_test_module(path: Path) -> None:
    if path.name in ("__init__.py", "__main__.py") or name(path) in TESTED_ELSEWHERE:
        return
    parts = [part for part in path.relative_to(ROOT).parts if part not in ("pmkv", "pmkv_server", "pmkv_client")]
    wanted = Path("tests/unit", *parts[:-1], f"test_{parts[-1]}")
    assert (ROOT / wanted).exists(), f"{name(path)} has no {wanted}, and is not in TESTED_ELSEWHERE"


def test_the_lists_of_exceptions_are_up_to_date() -> None:
    for source, test in TESTED_ELSEWHERE.items():
        assert (ROOT / source).exists(), f"{source} is gone: strike it off TESTED_ELSEWHERE"
        assert (ROOT / test).exists(), f"{source} is said to be tested by {test}, which is not there"
    long = {label for path in sources(*ALL_FOLDERS) for label, node in functions(path)
            if node.end_lineno - node.lineno >= FUNCTION}  # fmt: skip
    assert set(LONG_FUNCTIONS) <= long, f"short now, strike off: {set(LONG_FUNCTIONS) - long}"


@pytest.mark.parametrize(("project", "folders"), [(".", ["pmkv", "server"]), ("client", ["client"])])
def test_every_package_is_distributed(project: str, folders: list[str]) -> None:
    settings = tomllib.loads((ROOT / project / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {module_of(path) for path in sources(*folders) if path.name == "__init__.py"}
    assert found == set(settings["packages"]), "[tool.setuptools] packages of pyproject.toml differs from the tree"
    for folder in folders:
        package = folder if folder == "pmkv" else f"{folder}/{DISTRIBUTED[folder]}"
        assert (ROOT / package / "py.typed").exists(), f"{package} has no py.typed"
