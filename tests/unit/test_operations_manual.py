"""The session of the operators' manual is run, and shows what the manual says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

MANUAL = (Path(__file__).parent.parent.parent / "docs" / "OPERATIONS.md").read_text()


def test_a_full_pool_is_emptied_as_described(tmp_path: Path) -> None:
    program, shown = re.search(r"```python\n((?:(?!```).)*)```\n\n```text\n(.*?)```", MANUAL, re.DOTALL).groups()
    found = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    wanted, got = shown.splitlines(), found.stdout.splitlines()
    figures = re.compile(r"\d[\d,]*")
    assert [figures.sub("N", line) for line in got] == [figures.sub("N", line) for line in wanted]
    used = int(figures.findall(got[-1])[0].replace(",", ""))
    assert used <= 4 * 256, "at most the segments that are written to are left"
