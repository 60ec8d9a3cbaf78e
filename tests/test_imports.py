"""Who may import what, on the syntax tree: the rules of the layout."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = sorted((ROOT / "fastprune").rglob("*.py"))
PLUGINS = sorted((ROOT / "plugins").rglob("*.py"))
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in CORE}
ANYBODY = {"errors", "progress", "ranges"}
"""What every part of the core may import."""
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "progress": set(),
    "ranges": {"errors"},
    "modeling": set(),
    "files": {"errors"},
    "untrusted": {"files"},
    "journal": {"files"},
    "units": {"modeling"},
    "data": {"files"},
    "reports": {"files"},
    "surgery": {"units", "modeling"},
    "strategies": {"journal", "units", "surgery", "data", "files", "untrusted"},
    "calibration": {"units", "data"},
    "reconstruction": {"journal", "calibration", "surgery", "units", "data"},
    "registry": {"strategies", "units", "data", "files"},
    "models": {"registry", "units", "data", "reports", "files", "untrusted", "modeling"},
    "experts": {"models", "registry", "calibration", "data", "units", "files"},
    "vocabulary": {"models", "registry", "strategies", "surgery", "data", "units", "files"},
    "measuring": {"models", "registry", "strategies", "calibration", "units", "data", "reports"},
    "exporting": {
        "measuring",
        "models",
        "registry",
        "strategies",
        "calibration",
        "data",
        "files",
        "untrusted",
        "modeling",
        "surgery",
        "units",
    },
    "pipeline": {
        *("vocabulary", "measuring", "models", "registry", "strategies", "surgery", "calibration"),
        *("units", "data", "reports", "journal", "files", "untrusted"),
    },
    "shrinking": {"pipeline", "exporting", "measuring", "models", "registry", "strategies", "data", "files"},
    "testing": {
        *("pipeline", "vocabulary", "exporting", "models", "registry", "reconstruction", "calibration"),
        *("strategies", "surgery", "data", "units", "files", "modeling"),
    },
    "drafting": {"testing", "models", "registry", "calibration", "surgery", "data", "units"},
}
"""What each part of the core may import beside itself and what anybody may. Nothing but ``cli``, which may import all, and the
front doors ``fastprune/__init__`` and ``__main__`` stand above these. A part is a folder, or a module beside the folders."""
NOTHING_OF_OURS = {"errors", "progress", "modeling"}
TYPES_ONLY = {
    ("fastprune.registry.hookspecs", "click"),
    ("fastprune.strategies.context", "fastprune.calibration.dense_states"),
    ("fastprune.strategies.export_formats", "fastprune.models.pretrained"),
}
"""What a module may import against the table in a ``TYPE_CHECKING`` block: what a contract is handed from above. Elsewhere such
a block is an import like any other: a type of another module is a dependency on it."""
FACES = {"units", "data", "strategies", "calibration", "reconstruction"}
"""The parts that authors of plugins import public names from, beside ``fastprune`` itself and ``fastprune.errors``."""
LINES, FUNCTION_LINES, PARAMETERS = 400, 60, 8
MANY_PARAMETERS = {
    "pipeline.prune.prune",
    "pipeline.sweeps.sweep",
    "shrinking.shrink.shrink",
    "data.encoding.make_batches",
}
"""Functions whose arguments are what users choose one by one."""


def imports(path: Path) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    """What a file imports: the module, the names taken from it, and whether it is for type checkers only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING")
        for statement in block.body
        for node in ast.walk(statement)
    }
    package = path.relative_to(ROOT / ("plugins" if "plugins" in path.relative_to(ROOT).parts else ".")).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, (), id(node) in guarded
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module, tuple(alias.name for alias in node.names), id(node) in guarded


def called(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_is_something_to_check() -> None:
    assert len(CORE) > 20
    assert len(PLUGINS) > 20
    assert ("fastprune.errors", ("PluginError", "UnknownNameError"), False) in list(
        imports(ROOT / "fastprune/registry/names.py")
    )


@pytest.mark.parametrize("path", PLUGINS, ids=called)
def test_plugin_imports_the_public_names_and_its_own_package(path: Path) -> None:
    own = path.relative_to(ROOT / "plugins").parts[0]
    for module, _, _ in imports(path):
        top = module.partition(".")[0]
        public = {"fastprune", "fastprune.errors", *(f"fastprune.{face}" for face in FACES)}
        assert module in public or not module.startswith("fastprune."), f"{module} is no public module"
        assert not top.startswith("fastprune_") or top == own, f"{own} imports {top}, another plugin"


@pytest.mark.parametrize("path", PLUGINS, ids=called)
def test_plugin_imports_only_what_is_public(path: Path) -> None:
    for module, names, _ in imports(path):
        if module.partition(".")[0] == "fastprune" and module != "fastprune.errors":
            assert set(names) <= set(importlib.import_module(module).__all__), f"{module} has other public names"


@pytest.mark.parametrize("path", CORE, ids=called)
def test_core_imports_no_plugin(path: Path) -> None:
    tops = {module.partition(".")[0] for module, _, _ in imports(path)}
    assert not {top for top in tops if top.startswith("fastprune_")}


def part_of(module: str) -> str:
    """The folder of the core that a module lies in, or the module itself where it lies beside the folders."""
    return module.split(".")[1] if "." in module else ""


def ours(name: str) -> Iterator[str]:
    """The modules of the core that a module imports, wherever in it, but those of ``TYPES_ONLY``. ``from fastprune.cli import
    quiet`` imports that module."""
    for module, names, for_types in imports(MODULES[name]):
        if module.partition(".")[0] == "fastprune":
            for each in names or ("",):
                found = f"{module}.{each}" if f"{module}.{each}" in MODULES else module
                if not (for_types and (name, found) in TYPES_ONLY):
                    yield found


INSIDE = sorted(name for name in MODULES if part_of(name) not in ("", "cli", "__main__"))


@pytest.mark.parametrize("name", INSIDE)
def test_parts_import_only_what_the_table_allows(name: str) -> None:
    part = part_of(name)
    for module in ours(name):
        allowed = {part} | MAY_IMPORT[part] | (set() if part in NOTHING_OF_OURS else ANYBODY)
        assert part_of(module) in allowed, f"{name} imports {module}; {part} may import {', '.join(sorted(allowed))}"


def test_what_only_type_checkers_import_is_needed_still() -> None:
    found = {(name, module) for name, path in MODULES.items() for module, _, for_types in imports(path) if for_types}
    assert found >= TYPES_ONLY


def test_the_table_has_every_part_and_no_other() -> None:
    assert MAY_IMPORT.keys() == {part_of(name) for name in INSIDE}


def test_the_documentation_has_the_same_table() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", (ROOT / "docs" / "layout.md").read_text(encoding="utf-8"), re.M)
    documented = {part: set(re.findall(r"`(\w+)`", others)) for part, others in rows if part in MAY_IMPORT}
    expected = {part: others - ANYBODY for part, others in MAY_IMPORT.items() if part not in NOTHING_OF_OURS}
    assert documented == expected


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Paths that lead back to where they began."""
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return [error.args[1]]
    return []


def test_no_part_imports_what_imports_it() -> None:
    assert not circles(
        {part: others | (ANYBODY - {part}) for part, others in MAY_IMPORT.items() if part not in ANYBODY}
    )
    assert circles({"a": {"b"}, "b": {"a"}})


def test_no_circle_between_modules() -> None:
    assert not circles({name: set(ours(name)) - {name} for name in MODULES})


@pytest.mark.parametrize("path", CORE, ids=called)
def test_click_is_imported_by_the_command_line_alone(path: Path) -> None:
    if path.parent.name == "cli":
        return
    for module, _, for_types in imports(path):
        if module.partition(".")[0] == "click":
            assert for_types, "only a type checker may see click here"
            assert MODULES["fastprune.registry.hookspecs"] == path


@pytest.mark.parametrize("path", [path for path in CORE if path.name != "__init__.py"], ids=called)
def test_core_imports_its_modules_and_never_itself(path: Path) -> None:
    """``from fastprune import X`` inside the core, X being no module, goes through the lazy front door: a cycle."""
    for module, names, _ in imports(path):
        if module == "fastprune":
            assert names, "import the module that is meant"
            assert {f"fastprune.{name}" for name in names} <= MODULES.keys()


def test_no_folder_bears_the_name_of_a_public_function() -> None:
    """Importing it would put the folder in the place of the function, which is only looked up when it is first used."""
    import fastprune

    parts = {name.partition(".")[2] for name in MODULES if name.count(".") == 1}
    assert not (parts - FACES - {"errors"}) & set(fastprune.__all__)


@pytest.mark.parametrize("path", [*CORE, *PLUGINS], ids=called)
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES


def functions(path: Path) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """The functions of a file by their full names, those within classes and functions as well."""

    def inside(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            name = f"{prefix}.{child.name}" if named else prefix  # type: ignore[attr-defined]
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield name, child
            yield from inside(child, name)

    top = ROOT / ("plugins" if path.is_relative_to(ROOT / "plugins") else "fastprune")
    yield from inside(
        ast.parse(path.read_text(encoding="utf-8")), ".".join(path.relative_to(top).with_suffix("").parts)
    )


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """All that it takes but itself; ``**options`` is one."""
    taken = function.args
    rest = [each for each in (taken.vararg, taken.kwarg) if each is not None]
    names = [each.arg for each in (*taken.posonlyargs, *taken.args, *taken.kwonlyargs, *rest)]
    return [name for name in names if name not in ("self", "cls")]


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of a function without its docstring."""
    lines, first = (function.end_lineno or 0) - function.lineno + 1, function.body[0]
    if ast.get_docstring(function) is None:
        return lines
    return lines - ((first.end_lineno or 0) - first.lineno + 1)


def test_functions_are_short() -> None:
    long = {
        name
        for path in (*CORE, *PLUGINS)
        for name, function in functions(path)
        if code_lines(function) > FUNCTION_LINES
    }
    assert not long


def test_functions_take_few_parameters() -> None:
    many = {
        name
        for path in (*CORE, *PLUGINS)
        for name, function in functions(path)
        if len(parameters(function)) > PARAMETERS
    }
    assert many == MANY_PARAMETERS


@pytest.mark.parametrize("path", [*CORE, *PLUGINS], ids=called)
def test_no_model_or_strategy_name_decides_anything(path: Path) -> None:
    """No comparison with a family's or a strategy's name: a new one is data or a plugin."""
    from fastprune.registry import loading

    installed = loading.installed()
    names = {model_type for name in installed.architecture for model_type in installed.architecture[name].model_types}
    names |= {name for kind in loading.STRATEGIES for name in installed.strategies(kind)} - {"none"}
    if path.is_relative_to(ROOT / "plugins"):
        names = {name for name in names if name in {"bert", "distilbert", "roberta", "mpnet"}}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            compared = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}
            assert not compared & names, f"{called(path)}:{node.lineno} compares with {compared & names}"
