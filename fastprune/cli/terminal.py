"""The terminal: progress bars and tables, for people; never imported by the engine."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from fastprune import progress as reports
from fastprune.reports.figures import Row, count

if TYPE_CHECKING:
    from fastprune.pipeline.curves import Sweep

BAR_WIDTH = 12


def console(*, quiet: bool = False) -> Console:
    """Where people read; machines read standard output."""
    return Console(stderr=True, quiet=quiet, highlight=False)


@contextlib.contextmanager
def progress_bar(where: Console) -> Iterator[None]:
    """While open, a bar for each step that reports, with the time left; nothing where nobody watches."""
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=where, disable=not where.is_terminal or where.quiet, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def report(description: str, done: int, total: int) -> None:
            known = tasks.get(description)
            if known is None:
                tasks[description] = bars.add_task(description, total=total)
            elif done == 0 and bars.tasks[bars.task_ids.index(known)].finished:  # it runs again
                bars.reset(known, total=total)
            bars.update(tasks[description], completed=done, total=total)

        with reports.listening(report):
            yield


@contextlib.contextmanager
def logs(where: Console) -> Iterator[None]:
    """While open, what the library logs of its steps is printed."""
    logger = logging.getLogger("fastprune")
    level = logger.level
    handler = RichHandler(console=where, show_path=False, show_level=False, markup=False, highlighter=None)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def figures_table(rows: Sequence[Row], title: str) -> Table:
    """Before and after: name, dense, pruned, what that means."""
    table = Table(title=title, box=SIMPLE, title_justify="left")
    for heading, justify in (("", "left"), ("dense", "right"), ("pruned", "right"), ("", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*row)
    return table


def groups_table(groups: Sequence[Mapping[str, Any]], headings: Mapping[str, str] | None = None) -> Table:
    """What is left of each group, as bars. Rows hold name, kind, units, kept and any further columns, under headings."""
    extra = [name for name in groups[0] if name not in ("name", "kind", "units", "kept")]
    table = Table(box=SIMPLE)
    table.add_column("group", no_wrap=True)
    for heading in ("kept", "", *extra):
        said = (headings or {}).get(heading, heading)
        table.add_column(said, no_wrap=True, justify="right" if heading in extra else "left")
    for group in groups:
        share = group["kept"] / group["units"] if group["units"] else 0.0
        filled = round(share * BAR_WIDTH)
        bar = "█" * filled + "░" * (BAR_WIDTH - filled)
        table.add_row(
            group["name"], f"{group['kept']} / {group['units']}", bar, *(count(group[name]) for name in extra)
        )
    return table


def verdicts_table(rows: Sequence[tuple[str, bool, str]]) -> Table:
    """Checks, whether they passed, and what was found where they did not."""
    table = Table(box=None, pad_edge=False)
    for name in ("", "check", "found"):
        table.add_column(name, overflow="fold")
    for check, passed, detail in rows:
        table.add_row("[green]ok[/green]" if passed else "[red]FAILED[/red]", escape(check), escape(detail))
    return table


def findings_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What a draft found: consumers, their units, how sure that is, and why it is not."""
    table = Table(box=None, pad_edge=False)
    for name in ("", "consumer", "units", "width", "found"):
        table.add_column(name, overflow="fold")
    colours = {"sure": "green", "likely": "yellow", "doubtful": "red"}
    for row in rows:
        sure = f"[{colours[row['confidence']]}]{row['confidence']}[/{colours[row['confidence']]}]"
        units = f"{row['units']} {'filters' if row['kind'] == 'ffn' else 'heads'}"
        table.add_row(sure, escape(row["path"]), units, str(row["width"]), escape(row["detail"]))
    return table


def curve_table(measure: str, kept: Sequence[int], cost: Sequence[float], spread: Sequence[float]) -> Table:
    """A measured curve: units kept, what they cost, how far measurements lay apart, and a bar."""
    table = Table(box=SIMPLE)
    for heading, justify in (("kept", "right"), (measure, "right"), ("spread", "right"), ("", "left")):
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    most = max(cost) or 1.0
    for units, value, apart in zip(kept, cost, spread or [0.0] * len(kept), strict=True):
        bar = "█" * round(3 * BAR_WIDTH * value / most)
        table.add_row(str(units), f"{value:.4g}", f"{apart:.0%}", bar)
    return table


def sweep_table(found: Sweep) -> Table:
    """One row a recipe and budget; those on the Pareto front are marked."""
    front = {(point.recipe, point.budget) for point in found.front()}
    unit = "percent" if found.falling else "points"
    dense = f"dense {found.metric} {found.dense[found.metric]:.4f}"
    table = Table(title=dense, box=SIMPLE, title_justify="left")
    points = found.points()
    several = ["spread"] if any(point.low != point.high for point in points) else []  # of several seeds
    headings = ["recipe", "budget", f"{found.measure} left", found.metric, *several, f"{unit} lost", "front"]
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "recipe" else "right")
    for point in points:
        spread = f"± {(point.high - point.low) / 2:.4f}" if point.low != point.high else ""
        table.add_row(
            point.recipe,
            f"{point.budget:g}",
            f"{point.cost:.3f}",
            f"{point.value:.4f}",
            *([spread] if several else []),
            f"{point.drop:.2f}",
            "*" if (point.recipe, point.budget) in front else "",
        )
    return table
