"""Bad inputs on the command line: refused in plain sentences with an exit status, and nothing is written.

``python tests/test_bad_inputs.py`` writes the table of docs/bad-inputs.md.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import tempfile
from pathlib import Path

import click.testing
import huggingface_hub.constants
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from bad_inputs import CASES, Case, workspace
from fastprune.cli.main import main

PAGE = Path(__file__).parents[1] / "docs" / "bad-inputs.md"
HEAD = """# Bad inputs

What the command line says to inputs that it cannot use, and its exit status. Nothing is written in any of these cases, and no
model is changed. `python tests/test_bad_inputs.py` writes this table; a test runs every command in it.

| fastprune ... | what is wrong with the file | message | exit status |
|---|---|---|---|
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    workspace(folder)
    return folder


def run(case: Case) -> click.testing.Result:
    """Run the command line of a case in the current directory."""
    return click.testing.CliRunner().invoke(main, shlex.split(case.words))


def message(result: click.testing.Result) -> str:
    """The sentences after ``Error:``, in one line."""
    found = re.search(r"^Error: (.*)", result.stderr, re.DOTALL | re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def files(folder: Path) -> dict[str, int]:
    """The time of change of every file."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.words)
def test_bad_input_is_refused(case: Case, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    before = files(place)

    result = run(case)

    assert isinstance(result.exception, SystemExit), result.exc_info
    assert result.exit_code == case.code, result.output
    assert case.says in message(result)
    assert len(message(result)) < 800
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert files(place) == before


def cells(line: str) -> list[str]:
    return [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_the_table_lists_every_case() -> None:
    """Other versions of libraries may word their reasons in other ways; the part of fastprune's own is the same."""
    head, rule, *rows = [cells(line) for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert len(head) == len(rule) == 4
    assert [(row[0].strip("`"), row[1], int(row[3])) for row in rows] == [
        (case.words, case.about, case.code) for case in CASES
    ], "run python tests/test_bad_inputs.py"
    for row, case in zip(rows, CASES, strict=True):
        assert case.says in row[2], case.words


def write_page() -> None:
    """Run all cases and write the page."""
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        workspace(place)
        os.chdir(place)
        for case in CASES:
            result = run(case)
            said = message(result).replace(f"{place}/", "")
            row = [f"`{case.words}`", case.about, said, str(result.exit_code)]
            rows.append("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |")
        os.chdir(PAGE.parent)
    PAGE.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_page()
