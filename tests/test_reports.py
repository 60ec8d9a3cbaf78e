"""Reports: what the page says, that it needs nothing from outside, and that a browser draws it."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

import click.testing
import pytest
import torch

import fastprune
from fastprune import testing
from fastprune.cli.main import main
from fastprune.errors import CheckpointError
from fastprune.models import checkpoint
from fastprune.models.manifests import write_report
from fastprune.reports import pages


@pytest.fixture(scope="module")
def result():
    model = testing.tiny_model("bert", "ForSequenceClassification")
    result = fastprune.prune(model, testing.tiny_batches(model, samples=16), budget=0.5)
    result.metrics.update({"dense": {"accuracy": 0.9}, "pruned": {"accuracy": 0.875}})
    return result


class Page(html.parser.HTMLParser):
    """Its text, its tags balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "link", "br", "path", "use", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("path", "use", "rect"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_says_what_was_done(result) -> None:
    text = pages.render({"<small> & fast": result.details()})
    page = Page(text)
    assert not page.open
    assert "<small> & fast" in page.text
    share = f"{result.cost_after / result.cost_before:.0%}"
    assert f"{share} of the MACs and" in page.text
    assert "accuracy goes from 0.9 to 0.875." in page.text
    assert f"; a forward pass is {result.latency['speedup']:.1f} times as fast" in page.text
    shape = f"latency, 8 x {result.latency['seq_len']} tokens"
    assert [shape in page.text, "size" in page.text] == [True, True]
    assert 'use = "obs"' in page.text
    attention = [group for group in result.groups if group.kind == "attention"]
    assert len(re.findall(r'class="cell( kept)?"', text)) == sum(group.units for group in attention)
    for group in attention:
        assert text.count('class="cell kept"') == sum(result.mask.counts()[g.name] for g in attention)
        assert f">{group.name.removeprefix('encoder.layer.')}<" in text


def test_the_page_says_what_it_was_made_with(result) -> None:
    page = checkpoint.pages(result.model, "small", result.details(), {})["report.html"].decode()
    assert f"Made with fastprune {fastprune.__version__}, torch {torch.__version__}, transformers" in page


def test_nothing_comes_from_outside(result) -> None:
    text = pages.render({"a": result.details(), "b": result.details()})
    assert not re.search(r"<script|<link|<img|@import|src=|url\((?!#)", text)
    assert set(re.findall(r"https?://[^\"' )]*", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_importance_is_short_enough_for_a_manifest() -> None:
    importance = {"heads": torch.tensor([0.1, 3.0, 2.0]), "filters": torch.rand(5000), "none": torch.zeros(0)}
    short = pages.summarised(importance, every={"heads": True, "filters": False, "none": False})
    assert short["heads"] == [0.1, 3.0, 2.0]
    assert len(short["filters"]) == pages.VALUES
    assert short["filters"] == sorted(short["filters"], reverse=True)
    assert short["filters"][0] == pytest.approx(float(importance["filters"].max()), rel=1e-3)
    assert short["none"] == []


def test_a_save_leaves_a_report_and_several_stand_side_by_side(result, tmp_path: Path) -> None:
    for name in ("one", "two"):
        result.save(tmp_path / name)
        assert "of the MACs" in (tmp_path / name / "report.html").read_text(encoding="utf-8")
    page = tmp_path / "both.html"
    run = click.testing.CliRunner().invoke(
        main, ["report", str(tmp_path / "one"), str(tmp_path / "two"), "--output", str(page)]
    )
    assert run.exit_code == 0, run.output
    text = page.read_text(encoding="utf-8")
    assert "2 prunings" in text
    assert text.count('<section class="run"') == 2
    assert json.loads((tmp_path / "one" / "fastprune.json").read_text())["importance"]


def test_what_is_no_pruned_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        write_report([tmp_path], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


PROBE = """<script>
const box = (each) => each.getBoundingClientRect();
const drawn = (each) => box(each).width > 1 && box(each).height > 8;
const lines = (svg) => [...svg.querySelectorAll("path")].filter(
    (path) => path.getTotalLength() > 20 && getComputedStyle(path).stroke !== "none");
const all = (what) => [...document.querySelectorAll(what)];
console.log("PROBE " + JSON.stringify({
    width: innerWidth,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    background: getComputedStyle(document.body).backgroundColor,
    figures: all("figure svg").map((svg) => [box(svg).width > 250 && box(svg).height > 150, lines(svg).length]),
    cells: all(".cell").filter(drawn).length,
    bars: all(".bar").filter(drawn).length,
}) + " END");
</script>"""


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize(
    ("scheme", "background"), [(1, "rgb(255, 255, 255)"), (0, "rgb(17, 21, 29)")], ids=["light", "dark"]
)
def test_a_browser_draws_it(result, tmp_path: Path, width: int, scheme: int, background: str) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed, so that no browser draws the report here")
    page = tmp_path / "report.html"
    page.write_text(pages.render({"small": result.details()}).replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    window = tmp_path / "window.html"  # as narrow as a phone, which Chromium's own windows cannot be
    window.write_text(f'<body style="margin:0"><iframe src="{page.name}" width="{width}" height="900" frameborder="0">')
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"]
    flags += ["--window-size=1400,900", f"--blink-settings=preferredColorScheme={scheme}"]
    picture = tmp_path / "shot.png"
    done = subprocess.run(
        [browser, *flags, f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}", window.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    assert len(said) == 1, said  # the probe's, and no error
    found = json.loads(re.search(r"PROBE (.*) END", said[0])[1].replace('\\"', '"'))
    attention = [group for group in result.groups if group.kind == "attention"]
    figures = found.pop("figures")
    assert found == {
        "width": width,
        "overflow": 0,
        "background": background,
        "cells": sum(group.units for group in attention),
        "bars": len(result.groups) - len(attention),
    }
    assert [large for large, _ in figures] == [True, True]
    assert all(lines >= len(attention) for _, lines in figures)
    assert picture.stat().st_size > 10_000
