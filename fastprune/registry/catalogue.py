"""The catalogue: all registered strategies, presets and architectures with their documentation, as plain data."""

from __future__ import annotations

import inspect
from typing import Any

from fastprune.errors import UnknownNameError
from fastprune.registry import loading
from fastprune.strategies.options import options_of
from fastprune.units.toml import to_toml


def entries(kind: str | None = None, name: str | None = None) -> list[dict[str, Any]]:
    """List strategies, presets and architectures.

    Args:
        kind: Only this kind; None: all kinds.
        name: Only this name; None: all names.

    Returns:
        Mappings with kind, name, plugin, summary, description, options, formula, paper, and ``use``, the command-line
        options that select the entry; unavailable texts are empty.

    Raises:
        UnknownNameError: The kind or the name is unknown.
    """
    kinds = (*loading.STRATEGIES, "preset", "architecture")
    if kind is not None and kind not in kinds:
        raise UnknownNameError(f"There is no kind '{kind}'. Known: {', '.join(kinds)}.")
    return [
        _entry(each, each_name)
        for each in ([kind] if kind else kinds)
        for each_name in ([name] if name else getattr(loading.installed(), each))
    ]


def preset(name: str) -> str:
    """The TOML text of a preset.

    Raises:
        UnknownNameError: The preset is unknown.
    """
    return loading.installed().preset[name]


def architecture(name: str) -> str:
    """The TOML text of an architecture.

    Raises:
        UnknownNameError: The architecture is unknown.
    """
    return to_toml(loading.installed().architecture[name])


def _entry(kind: str, name: str) -> dict[str, Any]:
    entry = getattr(loading.installed(), kind).entry(name)
    options: list[dict[str, Any]] = []
    formula = paper = use = ""
    if kind == "preset":
        description = entry.value.partition("\n\n")[0].replace("# ", "")
    elif kind == "architecture":
        types = ", ".join(entry.value.model_types)
        description = f"For the model types {types}." if types else "Used by its name only (--architecture)."
    else:
        description = inspect.getdoc(entry.value) or ""
        options = [
            {
                "name": info.name,
                "type": info.type_name,
                "range": str(info.range),
                "default": info.default,
                "help": info.help,
            }
            for info in options_of(entry.value)
        ]
        formula, paper = entry.value.formula, entry.value.paper
        stage = f"{kind}." if kind in loading.KINDS else ""
        use = f"--{kind} {name}" + "".join(
            f" --set {stage}{option['name']}={_text(option['default'])}" for option in options
        )
    summary = " ".join(description.partition("\n\n")[0].split())
    return {
        "kind": kind,
        "name": name,
        "plugin": entry.plugin,
        "summary": summary,
        "description": description,
        "options": options,
        "formula": formula,
        "paper": paper,
        "use": use,
    }


def _text(value: Any) -> str:
    """A value in the syntax of ``--set``."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
