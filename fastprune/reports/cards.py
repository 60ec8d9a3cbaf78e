"""Model cards: the README of a pruned model on the Hub and its plot, built from the manifest alone."""

from __future__ import annotations

import html
import io
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastprune.reports import pages as reports
from fastprune.reports.card_metadata import CARD, metadata
from fastprune.reports.pictures import plain, subplots

PICTURE = "kept.png"


def pages(
    name: str, details: Mapping[str, Any], *, library: str = "transformers", opener: str = "", loading: str = ""
) -> dict[str, bytes]:
    """Build the report, the model card and its plot, for a pruned model's directory.

    Args:
        name: Name of the directory.
        details: The content of a manifest, as from ``PruningResult.details``.
        library: The library that opens the model: ``transformers`` or ``sentence-transformers``.
        opener: Name of the library's class that opens the model; empty: only fastprune opens it.
        loading: Further arguments of ``fastprune.load``, such as ``model_class=OwnModel``.
    """
    return {
        reports.NAME: reports.render({name: details}).encode(),
        CARD: model_card(name, details, library=library, opener=opener, loading=loading).encode(),
        PICTURE: kept_picture(details),
    }


def model_card(name: str, details: Mapping[str, Any], *, library: str, opener: str, loading: str = "") -> str:
    """The model card, with the Hub's metadata at the top; arguments as for ``pages``."""
    from jinja2 import Environment

    # the card is Markdown
    environment = Environment(autoescape=False, trim_blocks=True, lstrip_blocks=True)  # nosec B701
    environment.filters["text"] = escaped
    template = files("fastprune.reports").joinpath("card.md.j2").read_text(encoding="utf-8")
    calibration = details["calibration"]
    public = {**calibration, "source": Path(calibration["source"]).name}  # without local directories
    page = reports.page_data(name, {**details, "calibration": public})
    return environment.from_string(template).render(
        name=name,
        verdict=page["verdict"],
        figures=page["figures"],
        calibration=page["calibration"],
        recipe=page["recipe"],
        budget=f"{details['budget']:g}",
        base=str(details.get("base_model", "")),
        metadata=metadata(details.get("card") or {}, base=str(details.get("base_model", "")), library=library),
        fence=_fence(page["recipe"]),
        usage=_usage(name, library, opener, loading, details.get("form") == "plain"),
    )


def escaped(text: str) -> str:
    """The text for a Markdown page: its characters are neither HTML nor formatting, and it stays in its line and table cell."""
    line = html.escape(" ".join(str(text).split()), quote=False)
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", line)


def _fence(code: str) -> str:
    """A fence for a block of code: longer than every run of backticks in it."""
    return "`" * max([3, *(len(run) + 1 for run in re.findall("`+", code))])


def kept_picture(details: Mapping[str, Any]) -> bytes:
    """Bar chart of the share of units kept in each sublayer, as a PNG."""
    groups = details["groups"]
    kinds = list(dict.fromkeys(group["kind"] for group in groups))
    figure, panels = subplots(4 * len(kinds), 2.6, count=len(kinds))
    for axes, kind in zip(panels if len(kinds) > 1 else [panels], kinds, strict=True):
        rows = [group for group in groups if group["kind"] == kind]
        shares = [100 * row["kept"] / row["units"] if row["units"] else 0 for row in rows]
        axes.bar(range(len(rows)), [100] * len(rows), color="#e3e8f2")
        axes.bar(range(len(rows)), shares, color="#2563eb")
        axes.set(title=plain(f"{kind}: % kept"), xlabel="layer", ylim=(0, 100))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110, metadata={"Software": None})
    return png.getvalue()


def _usage(name: str, library: str, opener: str, loading: str, plain: bool) -> str:
    """Example code that opens the model."""
    place = json.dumps(name)
    arguments = ", ".join(each for each in (place, loading) if each)
    own = f"import fastprune\n\nmodel = fastprune.load({arguments})  # where fastprune is installed"
    module, trust = library.replace("-", "_"), "" if plain else ", trust_remote_code=True"
    if library != "transformers":
        return f"from {module} import {opener}\n\nmodel = {opener}({place}{trust})"
    if opener:
        called = f"{opener}.from_pretrained({place}{trust})"
        return f"from {module} import {opener}\n\nmodel = {called}\n\n{own}"
    return own
