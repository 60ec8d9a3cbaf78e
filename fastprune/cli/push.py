"""fastprune push."""

from __future__ import annotations

import click

from fastprune.cli.options import verbosity_options
from fastprune.cli.working import working


@click.command(short_help="Upload a pruned model to the Hub.")
@click.argument("directory")
@click.argument("repository")
@click.option("--private", is_flag=True, help="Make a new repository visible to its owner only.")
@verbosity_options
def push(directory: str, repository: str, private: bool) -> None:
    """Upload the pruned model in DIRECTORY to the Hub as REPOSITORY, with its model card.

    \b
    fastprune push small my-name/my-classifier-half
    """
    from fastprune.models.manifests import read_manifest

    read_manifest(directory)
    with working() as where:
        from fastprune.models.hub import push_to_hub

        where.print(f"Uploaded to {push_to_hub(directory, repository, private=private)}")
