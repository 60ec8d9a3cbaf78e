"""The command group: built-in commands, imported on demand, and commands of plugins."""

from __future__ import annotations

import logging
from importlib import import_module
from importlib.metadata import entry_points, version
from typing import Any

import click

from fastprune.errors import FastpruneError, UnreachableError, UsageError

COMMANDS = (
    "bench",
    "check-architecture",
    "completion",
    "demo",
    "evaluate",
    "experts",
    "export",
    "inspect",
    "measure",
    "plugins",
    "prune",
    "push",
    "report",
    "shrink",
    "strategies",
    "sweep",
)
"""The built-in commands; each is a module of this package, imported on demand."""


UNREACHABLE = 3
"""Exit status if the budget, speedup or limit cannot be reached."""
NOISY = ("torchao", "torch.utils._pytree")
"""Loggers that warn of kernels and of torch's own types when transformers imports torchao, where that is installed."""


def printable(text: str) -> str:
    """The text without control characters, which file names and labels may have, and which a terminal obeys."""
    return "".join(each if each.isprintable() or each == "\n" else repr(each)[1:-1] for each in text)


def out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed, in Python, in torch on an accelerator, or in torch on the CPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, without importing torch
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


class Cli(click.Group):
    """A group that imports commands on demand, and turns fastprune's errors and Ctrl-C into a sentence and an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        for name in NOISY:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            return super().invoke(ctx)
        except FastpruneError as error:
            click.echo(f"Error: {printable(str(error))}", err=True)
            ctx.exit(UNREACHABLE if isinstance(error, UnreachableError) else 2 if isinstance(error, UsageError) else 1)
        except Exception as error:
            if not out_of_memory(error):
                raise
            click.echo(
                "Error: There is not enough memory. Use smaller or shorter batches (--batch-size, --max-length, --seq-len), fewer "
                "--samples, or another --device.",
                err=True,
            )
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("Stopped. No incomplete files are left.", err=True)
            ctx.exit(130)

    def list_commands(self, ctx: click.Context) -> list[str]:
        self._add_outside_commands()
        return sorted({*COMMANDS, *self.commands})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            name = cmd_name.replace("-", "_")
            self.add_command(getattr(import_module(f"fastprune.cli.{name}"), name), cmd_name)
        if cmd_name not in self.commands:
            self._add_outside_commands()
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            nearest = get_close_matches(args[0], self.list_commands(ctx), n=1)
            if not nearest:
                raise
            raise click.UsageError(f"{error.message} Did you mean '{nearest[0]}'?", ctx) from error

    def _add_outside_commands(self) -> None:
        """Add commands of plugins. They are loaded only if a third-party plugin is installed, because loading takes seconds."""
        from fastprune.registry.hookspecs import GROUP

        if any(point.dist is None or point.dist.name != "fastprune" for point in entry_points(group=GROUP)):
            from fastprune.registry import loading

            loading.installed().manager.hook.register_commands(cli=self)


@click.group(cls=Cli, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("fastprune"), prog_name="fastprune")
def main() -> None:
    """Make a trained Transformer smaller and faster in minutes, without retraining.

    \b
    fastprune demo                                                    try it on a real model
    fastprune prune MODEL --data train.csv --budget 0.5 --output DIR  halve your own model
    fastprune evaluate DIR --data test.csv                            measure its accuracy

    \b
    Exit status: 0 done, 1 failed, 2 wrong option, file, model or data,
                 3 the budget or speedup cannot be reached, 130 stopped by Ctrl-C.
    """
