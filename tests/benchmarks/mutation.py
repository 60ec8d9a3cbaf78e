"""Mutation run: do the tests of search, rearrangement and least squares notice a changed line?

    pip install cosmic-ray
    python tests/benchmarks/mutation.py --mutants 240 --output mutation.jsonl   # resumes where it stopped; at most an hour

cosmic-ray proposes the mutants: other operators, comparisons and numbers, negated conditions, loops that do not run. Of them a
sample with a fixed seed is tested, each by the tests of its own module, in a fork of a process that has loaded everything.
Left out: mutants of annotations and docstrings, which change nothing, of the defaults of options, which are a choice, and
operators that floats do not have.
Prints the mutants that no test noticed, and the share that was; the exit code is 1 below 80 %.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import json
import os
import random
import signal
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import click

ROOT = Path(__file__).parents[2]
TESTS = {
    "fastprune_search.knapsack": "tests/plugins/test_knapsack.py",
    "fastprune_search.exact": "tests/plugins/test_search.py",
    "fastprune_fisher.rearranger": "tests/plugins/test_fisher.py",
    "fastprune_lstsq.mask": "tests/plugins/test_lstsq.py",
    "fastprune_lstsq.bias": "tests/plugins/test_lstsq.py",
    "fastprune_lstsq.weights": "tests/plugins/test_lstsq.py",
    "fastprune.reconstruction.ridge": "tests/plugins/test_lstsq.py",
}
"""The tests of each module."""
IMPORTS = (
    "torch",
    "transformers",
    "scipy.sparse.linalg",
    "datasets",
    "pytest",
    "click",
    "tokenizers",
    "sklearn.isotonic",
)
TRIVIAL = ("RemoveDecorator", "BitAnd", "BitOr", "BitXor", "LShift", "RShift", "Mod")
"""Left out: operators that fail on floats at once, whatever is tested, and decorators, which a loaded class already has."""
WANTED = 0.8


@dataclass(frozen=True)
class Mutant:
    """A changed module.

    Attributes:
        name: Module, operator of cosmic-ray, and the number of its occurrence.
        module: The module's name.
        source: Its changed text.
    """

    name: str
    module: str
    source: str

    @property
    def change(self) -> str:
        """The changed lines."""
        lines = difflib.unified_diff(path_of(self.module).read_text().splitlines(), self.source.splitlines(), n=0)
        return "\n".join(line for line in lines if line[:3] not in ("---", "+++") and not line.startswith("@@"))


def path_of(module: str) -> Path:
    return ROOT / "plugins" / f"{module.replace('.', '/')}.py"


def mutants_of(module: str) -> Iterator[Mutant]:
    """All mutants of a module that change what it computes."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    source = path_of(module).read_text()
    seen = {"", _computed(source)}
    for name in operator_names():
        operator = get_operator(name)
        if operator.arguments() or name.endswith(TRIVIAL):
            continue
        occurrence = 0
        while (changed := mutate_code(source, operator(), occurrence)) is not None:
            computed = _computed(changed)
            if computed not in seen:
                seen.add(computed)
                yield Mutant(f"{module} {name.partition('/')[2]} {occurrence}", module, changed)
            occurrence += 1


def _computed(source: str) -> str:
    """The syntax tree without annotations, docstrings, and calls of ``option``; empty if it is no Python."""
    try:
        return ast.dump(_Bare().visit(ast.parse(source)))
    except SyntaxError:
        return ""


class _Bare(ast.NodeTransformer):
    def visit_arg(self, node: ast.arg) -> ast.arg:
        return ast.arg(node.arg)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        return ast.Assign([node.target], self.visit(node.value)) if node.value else ast.Pass()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        return ast.Pass() if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        return ast.Pass() if isinstance(node.func, ast.Name) and node.func.id == "option" else self.generic_visit(node)


def put_in(mutant: Mutant) -> None:
    """Give the loaded module the mutant's code; whoever imported its functions and classes sees it, too."""
    module, changed = importlib.import_module(mutant.module), dict[str, Any](__name__=mutant.module)
    exec(compile(mutant.source, str(path_of(mutant.module)), "exec"), changed)
    _replace(vars(module), changed)


def _replace(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Replace the code of functions, also of those in classes; ``old`` is changed."""
    for name, value in new.items():
        before = getattr(old.get(name), "fget", None) or getattr(old.get(name), "__func__", None) or old.get(name)
        value = getattr(value, "fget", None) or getattr(value, "__func__", None) or value
        if isinstance(before, FunctionType) and isinstance(value, FunctionType):
            before.__code__, before.__defaults__ = value.__code__, value.__defaults__
            before.__kwdefaults__ = value.__kwdefaults__
        elif isinstance(before, type) and before.__module__ == new.get("__name__"):
            _replace(vars(before), vars(value))
        elif isinstance(value, (int, float, tuple)) and isinstance(old, dict):
            old[name] = value


def tested(mutant: Mutant, limit: float) -> str:
    """``killed`` by a failing test or by the time limit, or ``survived``."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        _run_tests(mutant)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "survived" if os.waitstatus_to_exitcode(status) == 0 else "killed"
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "killed"


def _run_tests(mutant: Mutant) -> None:
    """In the child: run the module's tests on the mutant, and exit with their exit code."""
    import pytest

    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    code = 1
    try:
        put_in(mutant)
        ready = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # the plugins of pytest that IMPORTS brought along
        options = ["-q", "-x", "-n", "0", "-p", "no:cacheprovider", "-k", "not takes_seconds", *ready]  # no clocks
        code = int(pytest.main([*options, str(ROOT / TESTS[mutant.module])]))
    except BaseException:
        traceback.print_exc()
    os._exit(code)


@click.command()
@click.option("--mutants", default=240, show_default=True, help="Mutants to test; 0: all.")
@click.option("--seed", default=0, show_default=True, help="Seed of the sample.")
@click.option("--minutes", default=60.0, show_default=True, help="Stop after this time.")
@click.option("--output", default="mutation.jsonl", type=click.Path(dir_okay=False, path_type=Path))
def main(mutants: int, seed: int, minutes: float, output: Path) -> None:
    """Test the mutants, and say which survived."""
    end = time.monotonic() + 60 * minutes
    os.chdir(ROOT)
    every = [mutant for module in TESTS for mutant in mutants_of(module)]
    chosen = random.Random(seed).sample(every, min(mutants or len(every), len(every)))
    click.echo(f"{len(chosen)} of {len(every)} mutants")
    known = [json.loads(line) for line in output.read_text().splitlines()] if output.is_file() else []
    outcomes = {each["mutant"]: each["outcome"] for each in known}
    for name in (*IMPORTS, *TESTS):
        importlib.import_module(name)
    importlib.import_module("fastprune.registry.loading").installed()
    limits: dict[str, float] = {}
    for mutant in chosen:
        if mutant.name in outcomes or time.monotonic() > end:
            continue
        if mutant.module not in limits:
            limits[mutant.module] = _limit(mutant.module)
        outcomes[mutant.name] = tested(mutant, limits[mutant.module])
        with output.open("a", encoding="utf-8") as file:
            file.write(
                json.dumps({"mutant": mutant.name, "outcome": outcomes[mutant.name], "change": mutant.change}) + "\n"
            )
    done = [mutant for mutant in chosen if mutant.name in outcomes]
    for mutant in done:
        if outcomes[mutant.name] == "survived":
            click.echo(f"survived: {mutant.name}\n{mutant.change}")
    killed = sum(outcomes[mutant.name] == "killed" for mutant in done)
    click.echo(f"{killed} of {len(done)} killed ({killed / max(len(done), 1):.0%})")
    raise SystemExit(0 if done and killed >= WANTED * len(done) else 1)


def _limit(module: str) -> float:
    """Five times the seconds that the tests take on the unchanged module, which must pass."""
    start = time.monotonic()
    if tested(Mutant("unchanged", module, path_of(module).read_text()), 600.0) != "survived":
        raise click.ClickException(f"{TESTS[module]} fails on the unchanged {module}.")
    return 30 + 5 * (time.monotonic() - start)


if __name__ == "__main__":
    main()
