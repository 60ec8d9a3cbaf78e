"""fastprune completion."""

from __future__ import annotations

import click

from fastprune.errors import UsageError


@click.command(short_help="Print the completion script for a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes fastprune's commands and options in SHELL.

    \b
    fastprune completion bash > ~/.local/share/bash-completion/completions/fastprune
    fastprune completion zsh > ~/.zfunc/_fastprune       with fpath+=~/.zfunc before compinit
    fastprune completion fish > ~/.config/fish/completions/fastprune.fish
    """
    from click.shell_completion import get_completion_class

    completer = get_completion_class(shell)
    assert completer is not None
    try:
        click.echo(
            completer(click.get_current_context().find_root().command, {}, "fastprune", "_FASTPRUNE_COMPLETE").source()
        )
    except RuntimeError as error:  # click asks the shell for its version
        raise UsageError(f"The completion script for {shell} cannot be created: {error}.") from error
