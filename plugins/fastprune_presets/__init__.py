"""Presets: complete recipes as TOML files, to print, edit and run."""

from collections.abc import Callable
from importlib.resources import files

from fastprune import hookimpl


@hookimpl
def register_presets(register: Callable[[str, str], None]) -> None:
    for name in ("best", "default", "fast", "kprune", "paper"):
        register(name, files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8"))
