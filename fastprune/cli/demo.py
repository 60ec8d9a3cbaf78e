"""fastprune demo."""

from __future__ import annotations

import click

from fastprune.cli.options import verbosity_options
from fastprune.cli.working import working
from fastprune.files import check_output, claimed, json_text


@click.command(short_help="Halve a real sentence encoder; needs no access to the Hub.")
@click.option("--output", default="fastprune-demo", show_default=True, help="Directory for the pruned model.")
@click.option("--budget", type=float, default=0.5, show_default=True, help="Share of the MACs to keep.")
@click.option(
    "--samples", type=click.IntRange(64), default=768, show_default=True, help="Number of calibration sentences."
)
@click.option("--json", "as_json", is_flag=True, help="Print only JSON, on standard output.")
@verbosity_options
def demo(output: str, budget: float, samples: int, as_json: bool) -> None:
    """Halve a real sentence encoder without labels, on sentences of Python's documentation; needs no access to the Hub."""
    from fastprune.strategies import budgets

    check_output(output)
    budgets.read_budget(budget)
    with claimed(output), working() as where:
        from fastprune.cli import terminal
        from fastprune.cli.demo_run import run
        from fastprune.reports import figures

        outcome = run(output, budget=budget, samples=samples, say=where.print)
    if as_json:
        click.echo(json_text(outcome.figures))
        return
    where.print(terminal.groups_table(outcome.result.kept()))
    where.print(
        terminal.figures_table(
            figures.rows(outcome.result.summary()), "all-MiniLM-L6-v2, pruned without labels or retraining"
        )
    )
    where.print(
        f"Saved in {output}, with {output}/report.html to open in a browser. Load it:\n\n"
        f"    import fastprune\n    model = fastprune.load({output!r})\n"
    )
