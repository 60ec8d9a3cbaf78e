"""Terminal output: messages and tables. Imported by commands only."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text

from fastprune.reports.figures import Row, count, counted

if TYPE_CHECKING:
    from fastprune.exporting.servers import Serving
    from fastprune.pipeline.curves import Sweep
    from fastprune.strategies.tables import Curve

BAR_WIDTH = 12
UNWRAPPED = 1000  # columns of a log or a pipe, where lines are not wrapped


def console(*, quiet: bool = False) -> Console:
    """A console on standard error, for messages to users; standard output is for machine-readable results.

    Text is printed as it is: brackets and colons in names of files and labels are no markup.
    """
    where = Console(stderr=True, quiet=quiet, highlight=False, markup=False, emoji=False)
    if not where.is_terminal and "COLUMNS" not in os.environ:
        where.width = UNWRAPPED
    return where


@contextlib.contextmanager
def logs(where: Console) -> Iterator[None]:
    """Within the context, print fastprune's log messages."""
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
    """Table of figures: name, dense, pruned, comparison."""
    table = Table(title=title, box=SIMPLE, title_justify="left")
    for heading, justify in (("", "left"), ("dense", "right"), ("pruned", "right"), ("", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*row)
    return table


def groups_table(groups: Sequence[Mapping[str, Any]], headings: Mapping[str, str] | None = None) -> Table:
    """Table of groups with bars for the units kept.

    Args:
        groups: Rows with name, kind, units, kept, and any further numbers, which become columns.
        headings: Headings of columns by key [default: the key].
    """
    extra = [name for name in groups[0] if name not in ("name", "kind", "units", "kept")]
    table = Table(box=SIMPLE)
    table.add_column("group", no_wrap=True)
    for heading in ("kept", "", *extra):
        title = (headings or {}).get(heading, heading)
        table.add_column(title, no_wrap=True, justify="right" if heading in extra else "left")
    for group in groups:
        share = group["kept"] / group["units"] if group["units"] else 0.0
        filled = round(share * BAR_WIDTH)
        bar = "█" * filled + "░" * (BAR_WIDTH - filled)
        table.add_row(
            group["name"], f"{group['kept']} / {group['units']}", bar, *(count(group[name]) for name in extra)
        )
    return table


def servers_table(servings: Sequence[Serving]) -> Table:
    """Table of servers with what each needs."""
    table = Table(box=SIMPLE)
    for name in ("server", "opens this directory", "needs"):
        table.add_column(name, overflow="fold")
    for each in servings:
        opens = Text("yes", "green") if each.as_is else Text("after export" if each.possible else "no", "yellow")
        table.add_row(each.server, opens, Text(each.needs))
    return table


def verdicts_table(rows: Sequence[tuple[str, bool, str]]) -> Table:
    """Table of checks with their results and the reasons of failures."""
    table = Table(box=None, pad_edge=False)
    for name in ("", "check", "reason"):
        table.add_column(name, overflow="fold")
    for check, passed, detail in rows:
        table.add_row(Text("ok", "green") if passed else Text("FAILED", "red"), check, detail)
    return table


def findings_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Table of a draft's findings: confidence, consumer, units, width, and the reason for less than ``sure``."""
    table = Table(box=None, pad_edge=False)
    for name in ("", "consumer", "units", "width", "reason"):
        table.add_column(name, overflow="fold")
    colours = {"sure": "green", "likely": "yellow", "doubtful": "red"}
    for row in rows:
        sure = Text(row["confidence"], colours[row["confidence"]])
        units = f"{row['units']} {counted(row['kind'])}"
        table.add_row(sure, row["path"], units, str(row["width"]), row["detail"])
    return table


def curve_table(curve: Curve, measure: str) -> Table:
    """Table of a measured curve: heads or filters kept, cost, spread of the measurements, and a bar."""
    table = Table(box=SIMPLE, caption_justify="left")
    table.caption = "spread: the middle half of the repeated measurements, in % of their median"
    for heading, justify in (
        (f"{counted(curve.kind)} kept", "right"),
        (measure, "right"),
        ("spread", "right"),
        ("", "left"),
    ):
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    most = max(curve.cost) or 1.0
    for kept, value, spread in zip(curve.kept, curve.cost, curve.spread or [0.0] * len(curve.kept), strict=True):
        bar = "█" * round(3 * BAR_WIDTH * value / most)
        table.add_row(str(kept), f"{value:.4g}", f"{spread:.0%}", bar)
    return table


def sweep_table(sweep: Sweep) -> Table:
    """Table of a sweep, one row per recipe and budget; points that no other one beats are marked."""
    front = {(point.recipe, point.budget) for point in sweep.front()}
    unit = "percent" if sweep.falling else "points"
    dense = f"dense {sweep.metric_told} {sweep.dense[sweep.metric]:.4f}"
    table = Table(title=dense, box=SIMPLE, title_justify="left", caption_justify="left")
    table.caption = "*: no other row loses less at the same or a lower cost"
    points = sweep.points()
    several = ["spread"] if any(point.low != point.high for point in points) else []  # with several seeds
    headings = ["recipe", "budget", f"{sweep.measure} left", sweep.metric, *several, f"{unit} lost", "best"]
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
