"""python -m fastprune: the command line."""

from fastprune.cli.main import main

main(prog_name="fastprune")
