"""The house style as tests: what a reader may rely on in every file. They look at sources and import none of them."""

from __future__ import annotations

import ast
import functools
import operator
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import SERIAL, SLOW

ROOT = Path(__file__).parent.parent
DISTRIBUTED = {"pmkv": "pmkv", "server": "pmkv_server", "client": "pmkv_client"}  # folder: import package
ALL_FOLDERS = [*DISTRIBUTED, "bench", "deploy", "examples", "tests"]
FILE_LINES, FUNCTION_LINES, PROSE_COLUMNS = 800, 60, 120  # ruff watches the columns of code
CLASS_ATTRIBUTES, CLASS_METHODS, FACE_METHODS = 20, 30, 45  # a limit on state shapes a class better than one on lines
SERVER_MAY_IMPORT = {
    "pmkv", "pmkv.errors", "pmkv.tools.check", "pmkv.tools.dump", "pmkv.tools.salvage", "pmkv.runtime.jit",
    "pmkv.runtime.scheduling",
}  # fmt: skip

LEFTOVER = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX)\b")
MACHINE = re.compile("[\"'\\s(=]/(tmp|home|root|work|Users)/")

# Classes that users of pmkv call: they may have up to FACE_METHODS methods, as each is one line of the public face.
PUBLIC_FACES = {
    "pmkv/store.py:Store", "pmkv/view.py:View", "pmkv/engine/table.py:Table", "pmkv/engine/keyspace.py:Keyspace",
    "pmkv/engine/engine.py:Engine",
}  # fmt: skip

# Subjects that make a riddle of a docstring: the first sentence says what the thing is or does, with a noun and a verb.
RIDDLE = re.compile(
    r"(who|whom|whose|whoever|what|whatever|of|under|the same|likewise|as a|by who|by whoever)\b", re.IGNORECASE
)

# Methods of the standard library that begin with an underscore and are public all the same.
PUBLIC_UNDERSCORE = {"_asdict", "_exit", "_fields", "_make", "_replace"}
MAY_REACH_INSIDE = (  # private attributes of other libraries; stores of Feast override and call such
    "pmkv/runtime/", "client/pmkv_client/array_reader.py", "client/pmkv_client/feast.py",
)  # fmt: skip

# Rooms that mirror another one, file for file: kernels serve the classes of the same name, REST speaks of what the
# commands speak of.
MIRRORS = ("pmkv/kernels/", "server/pmkv_server/rest/")

# ---- Exceptions: each list may only shrink. An entry that is not needed any more fails its test: strike it off. ----

# A function that is one table or one straight loop may be longer; each has its reason here.
LONG_FUNCTIONS: dict[str, str] = {}

# Sources without a test module of their own, and what tests them instead.
TESTED_ELSEWHERE: dict[str, str] = {}

# Classes beyond the limits of attributes or methods.
LARGE_CLASSES = {"pmkv/versions/index_stack.py:IndexStack", "server/pmkv_server/net/connection.py:Connection"}

# Numeric constants of one name and several values.
AMBIGUOUS_CONSTANTS = {"KEYSPACES", "MAX_BATCH", "PAGE", "RESERVED", "VERSION"}

# Pairs of files of one name, and why both keep it.
SAME_NAME = {
    ("server/pmkv_server/commands/connection.py", "server/pmkv_server/net/connection.py"): "the commands on it, and it",
}


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
    assert len(lines) <= FILE_LINES, f"{len(lines)} lines, more than {FILE_LINES}: which second idea can move out?"
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
        assert length <= FUNCTION_LINES or label in LONG_FUNCTIONS, (
            f"{label} has {length} lines, more than {FUNCTION_LINES}"
        )


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
        assert not hidden, f"{name(path)} imports {target}; the server may import {sorted(SERVER_MAY_IMPORT)}"


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
            if node.end_lineno - node.lineno >= FUNCTION_LINES}  # fmt: skip
    assert set(LONG_FUNCTIONS) <= long, f"short now, strike off: {set(LONG_FUNCTIONS) - long}"


def test_the_lists_of_marks_are_up_to_date() -> None:
    for beginning in SERIAL + SLOW:
        file, _, test = beginning.partition("::")
        path = ROOT / "tests" / file
        assert path.exists(), f"{file} is gone: strike it off the lists of tests/conftest.py"
        assert f"def {test}" in path.read_text() if test else True, f"{beginning} is gone, likewise"


@pytest.mark.parametrize(("project", "folders"), [(".", ["pmkv", "server"]), ("client", ["client"])])
def test_every_package_is_distributed(project: str, folders: list[str]) -> None:
    settings = tomllib.loads((ROOT / project / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {module_of(path) for path in sources(*folders) if path.name == "__init__.py"}
    assert found == set(settings["packages"]), "[tool.setuptools] packages of pyproject.toml differs from the tree"
    for folder in folders:
        package = folder if folder == "pmkv" else f"{folder}/{DISTRIBUTED[folder]}"
        assert (ROOT / package / "py.typed").exists(), f"{package} has no py.typed"


def assigned_on_self(node: ast.ClassDef) -> set[str]:
    """Names of the attributes that methods of a class assign on `self`."""
    return {
        inner.attr for inner in ast.walk(node)
        if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store)
        and isinstance(inner.value, ast.Name) and inner.value.id == "self"
    }  # fmt: skip


def large_classes(path: Path) -> Iterator[tuple[str, str]]:
    """(label, what is too many) for each class of a file that is beyond the limits."""
    for node in [node for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)]:
        label = f"{name(path)}:{node.name}"
        methods = sum(isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) for inner in node.body)
        most = FACE_METHODS if label in PUBLIC_FACES else CLASS_METHODS
        attributes = len(assigned_on_self(node))
        if methods > most:
            yield label, f"{methods} methods, more than {most}"
        if attributes > CLASS_ATTRIBUTES:
            yield label, f"{attributes} attributes, more than {CLASS_ATTRIBUTES}"


def test_classes_hold_little_state() -> None:
    folders = [folder for folder in ALL_FOLDERS if folder != "tests"]
    found = dict(large for path in sources(*folders) for large in large_classes(path))
    wrong = {label: why for label, why in found.items() if label not in LARGE_CLASSES}
    assert not wrong, f"which second idea can move out? {wrong}"
    assert found.keys() >= LARGE_CLASSES, f"strike off LARGE_CLASSES: {LARGE_CLASSES - found.keys()}"
    for label in PUBLIC_FACES:
        source, _, face = label.partition(":")
        assert f"\nclass {face}" in (ROOT / source).read_text(), f"{label} is gone: strike it off PUBLIC_FACES"


def docstrings(path: Path) -> Iterator[str]:
    """The docstrings of a file: its own, and those of its classes and functions."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def test_docstrings_begin_with_a_subject_or_a_verb() -> None:
    found = [f"{name(path)}: {text.splitlines()[0]}" for path in sources(*DISTRIBUTED)
             for text in docstrings(path) if RIDDLE.match(text)]  # fmt: skip
    assert not found, "begin with a noun, or with a verb in the imperative:\n" + "\n".join(found)


ARITHMETIC = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Pow: operator.pow, ast.LShift: operator.lshift,
}  # fmt: skip


def value_of(node: ast.expr) -> float | None:
    """The value of an expression of plain numbers; None for any other."""
    if isinstance(node, ast.Constant):
        return node.value if type(node.value) in (int, float) else None
    if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        left, right = value_of(node.left), value_of(node.right)
        return None if left is None or right is None else ARITHMETIC[type(node.op)](left, right)
    return None


def numeric_constants(path: Path) -> Iterator[tuple[str, float]]:
    """(name, value) of the constants of a module that are plain numbers."""
    for node in tree(path).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            whole = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
            pairs = zip(target.elts, node.value.elts) if whole else [(target, getattr(node, "value", None))]
            for one, value in pairs:
                if isinstance(one, ast.Name) and one.id.isupper() and value is not None:
                    if (number := value_of(value)) is not None:
                        yield one.id, number


def test_a_constant_means_one_thing() -> None:
    values: dict[str, dict[float, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in sources(*DISTRIBUTED):
        for constant, value in numeric_constants(path):
            values[constant][value].append(name(path))
    found = {constant: dict(where) for constant, where in values.items() if len(where) > 1}
    wrong = {constant: where for constant, where in found.items() if constant not in AMBIGUOUS_CONSTANTS}
    assert not wrong, f"name the unit and the subject, as in FLUSH_PIECE_BYTES: {wrong}"
    assert found.keys() >= AMBIGUOUS_CONSTANTS, f"strike off: {AMBIGUOUS_CONSTANTS - found.keys()}"


@pytest.mark.parametrize("path", sources("pmkv"), ids=name)
def test_no_lock_outlives_an_interrupted_wait(path: Path) -> None:
    """Ctrl-C may come on the way into an `__exit__` that is written in Python, as those of these classes are: the lock
    within them would stay taken for ever. Plain locks and queue.SimpleQueue are written in C."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    names |= {one.name for node in nodes if isinstance(node, ast.ImportFrom) for one in node.names}
    wrong = names & {"Condition", "Event", "Semaphore", "BoundedSemaphore", "Barrier", "Future", "Queue", "Timer"}
    assert not wrong, f"{name(path)} waits by {wrong}"


def names_defined(path: Path) -> Iterator[str]:
    """Names that a file defines: functions, classes, variables, attributes of `self` and `cls`."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                yield node.attr


@functools.cache
def names_of_ours() -> frozenset[str]:
    """All names that the sources define."""
    return frozenset(found for path in sources(*DISTRIBUTED) for found in names_defined(path))


@every_source
def test_nobody_reaches_into_another_library(path: Path) -> None:
    if name(path).startswith(MAY_REACH_INSIDE):
        return
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__"):
            known = node.attr in PUBLIC_UNDERSCORE or node.attr in names_of_ours()
            assert known and node.attr != "_is_owned", (
                f"{name(path)}:{node.lineno}: {ast.unparse(node)} is private to another library; only "
                f"{MAY_REACH_INSIDE} may use such"
            )


@pytest.mark.parametrize("folder", DISTRIBUTED)
def test_no_two_files_of_one_name(folder: str) -> None:
    named: dict[str, list[str]] = defaultdict(list)
    for path in sources(folder):
        if not path.name.startswith("__") and not name(path).startswith(MIRRORS):
            named[path.name].append(name(path))
    found = {tuple(paths) for paths in named.values() if len(paths) > 1}
    expected = {pair for pair in SAME_NAME if pair[0].startswith(f"{folder}/")}
    assert found <= expected, f"a name that tells them apart? {found - expected}"
    assert found == expected, f"strike off SAME_NAME: {expected - found}"


# ---- documents ----

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("client/*.md")])
TOUR_WORDS = 2500
NAMED_FILE = re.compile(r"`((?:pmkv|server|client|bench|tests|examples|docs|deploy)/[\w./-]+\.\w+)")


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Numbered lines of a document without fenced code and tables."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith("|"):
            yield number, line


def test_prose_can_be_reviewed() -> None:
    wide = defaultdict(list)
    for path in DOCUMENTS:
        for number, line in prose(path.read_text()):
            if len(line) > PROSE_COLUMNS:
                wide[name(path)].append(number)
    assert not wide, f"lines of prose beyond {PROSE_COLUMNS} columns: {dict(wide)}"


def test_the_tour_of_the_architecture_is_short() -> None:
    assert len((ROOT / "docs/ARCHITECTURE.md").read_text().split()) <= TOUR_WORDS


def test_documents_name_files_that_exist() -> None:
    named = {found for path in DOCUMENTS for found in NAMED_FILE.findall(path.read_text())}
    missing = {found for found in named if not any(ROOT.glob(found))}
    assert not missing, f"named in a document, and not there: {sorted(missing)}"


def test_a_word_of_the_glossary_names_its_cousin() -> None:
    rows = [line for line in (ROOT / "docs/GLOSSARY.md").read_text().splitlines() if line.startswith("| **")]
    assert len(rows) > 60
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 3 and all(cells), f"a word, its meaning, and its cousin elsewhere: {row}"


def test_every_optimisation_has_its_ledger_entry() -> None:
    text = (ROOT / "docs/PERFORMANCE.md").read_text()
    for letter in "abcdefghiklmnopqrst":
        entry = re.search(rf"^### {letter}\. .*?(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
        assert entry, f"docs/PERFORMANCE.md has no entry {letter}"
        for field in ("Files", "With and without", "Switch off", "Command"):
            assert f"**{field}:**" in entry[0], f"entry {letter} of docs/PERFORMANCE.md has no **{field}:**"
