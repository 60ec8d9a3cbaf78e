"""Who may import what, on the syntax tree: the rules of the layout."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = sorted((ROOT / "fastprune").rglob("*.py"))
PLUGINS = sorted((ROOT / "plugins").rglob("*.py"))
MAY_IMPORT_OURS = {"registry/names": {"errors"}, "errors": set(), "progress": set(), "units/architecture": set()}
"""Modules of the core that must stay at the bottom, and all of ours that each may import."""


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
        assert module == "fastprune" or not module.startswith("fastprune."), f"{module} is no public module"
        assert not top.startswith("fastprune_") or top == own, f"{own} imports {top}, another plugin"


@pytest.mark.parametrize("path", PLUGINS, ids=called)
def test_plugin_imports_only_what_is_public(path: Path) -> None:
    import fastprune

    names = {name for module, names, _ in imports(path) if module == "fastprune" for name in names}
    assert names <= set(fastprune.__all__)


@pytest.mark.parametrize("path", CORE, ids=called)
def test_core_imports_no_plugin(path: Path) -> None:
    tops = {module.partition(".")[0] for module, _, _ in imports(path)}
    assert not {top for top in tops if top.startswith("fastprune_")}


@pytest.mark.parametrize("path", CORE, ids=called)
def test_click_is_imported_by_the_command_line_alone(path: Path) -> None:
    if path.parent.name == "cli":
        return
    for module, _, for_types in imports(path):
        if module.partition(".")[0] == "click":
            assert for_types, "only a type checker may see click here"
            assert path.stem == "hookspecs"


@pytest.mark.parametrize("name", sorted(MAY_IMPORT_OURS))
def test_modules_at_the_bottom(name: str) -> None:
    ours = {
        module.removeprefix("fastprune.")
        for module, _, _ in imports(ROOT / "fastprune" / f"{name}.py")
        if module.partition(".")[0] == "fastprune"
    }
    assert ours <= MAY_IMPORT_OURS[name]


@pytest.mark.parametrize("path", [path for path in CORE if path.name != "__init__.py"], ids=called)
def test_core_imports_its_modules_and_never_itself(path: Path) -> None:
    """``from fastprune import X`` inside the core, X being no module, goes through the lazy front door: a cycle."""
    modules = {one.parent.name if one.stem == "__init__" else one.stem for one in CORE}
    for module, names, _ in imports(path):
        if module == "fastprune":
            assert names, "import the module that is meant"
            assert set(names) <= modules


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
