"""Documentation and examples do what they say."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

import fastprune
from fastprune import testing
from fastprune.cli.main import main
from fastprune.registry import loading

ROOT = Path(__file__).parents[1]


def test_the_reference_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs/generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_api_page_has_every_public_name_that_users_need() -> None:
    """Authors of plugins have their own guide."""
    page = (ROOT / "docs/api.md").read_text()
    for_plugins = {"hookimpl", "option", "take_turns", "track", "Budget"}
    modules = {"calibration", "data", "errors", "reconstruction", "strategies", "units"}
    for name in set(fastprune.__all__) - for_plugins - modules:
        assert f"### `{name}`\n" in page, f"docs/api.md has no {name}"
    for part in ("- `architecture`: The paths", "**Raises**", "budget: Budget,"):
        assert part in page


def test_the_criterion_of_the_plugin_guide_conforms() -> None:
    guide = (ROOT / "docs/plugins.md").read_text()
    code = next(block for block in re.findall(r"```python\n(.*?)```", guide, re.S) if "my_plugin.py" in block)
    names: dict[str, object] = {"__name__": __name__}
    exec(compile(code, "docs/plugins.md", "exec", dont_inherit=True), names)
    testing.check_scorer(names["ColumnNorm"](order=1.0))  # type: ignore[operator]


def test_the_package_of_the_plugin_guide_can_be_installed() -> None:
    guide = (ROOT / "docs/plugins.md").read_text()
    package = tomllib.loads(
        next(block for block in re.findall(r"```toml\n(.*?)```", guide, re.S) if "pyproject" in block)
    )
    assert package["project"].keys() >= {"name", "version", "entry-points"}  # setuptools needs the first two
    modules = package["tool"]["setuptools"]["py-modules"]
    assert list(package["project"]["entry-points"]["fastprune"].values()) == modules == ["my_plugin"]


def test_the_export_format_of_the_plugin_guide_conforms() -> None:
    guide = (ROOT / "docs/plugins.md").read_text()
    code = next(block for block in re.findall(r"```python\n(.*?)```", guide, re.S) if "my_format.py" in block)
    names: dict[str, object] = {"__name__": __name__}
    exec(compile(code, "docs/plugins.md", "exec", dont_inherit=True), names)
    testing.check_export_format(names["PickleFormat"]())  # type: ignore[operator]


def test_the_architecture_of_the_plugin_guide_is_the_built_in_one() -> None:
    guide = (ROOT / "docs/plugins.md").read_text()
    code = next(block for block in re.findall(r"```python\n(.*?)```", guide, re.S) if "MY_BERT" in block)
    names: dict[str, fastprune.units.Architecture] = {}
    exec(code, names)
    assert names["MY_BERT"].stacks == loading.installed().architecture["bert"].stacks


def test_the_family_of_the_architecture_guide_is_the_one_that_is_tested(tmp_path: Path) -> None:
    guide = (ROOT / "docs/architectures.md").read_text()
    (tmp_path / "twig.toml").write_text(next(iter(re.findall(r"```toml\n(.*?)```", guide, re.S))))
    tested = ROOT / "tests/external/fastprune-example/fastprune_example/twig.toml"
    assert fastprune.read_architecture(tmp_path / "twig.toml") == fastprune.read_architecture(tested)


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/method.md",
        "docs/plugins.md",
        "docs/benchmarks.md",
        "docs/latency.md",
        "docs/guides.md",
        "docs/comparison.md",
        "docs/architectures.md",
        "CHANGELOG.md",
    ],
)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text()):
        assert (ROOT / page).parent.joinpath(target).exists(), target


def test_every_library_of_the_page_is_opened_by_the_benchmark() -> None:
    """tests/benchmarks/downstream.py runs the calls that the page gives."""
    names = runpy.run_path(str(ROOT / "tests/benchmarks/downstream.py"))
    settings = tomllib.loads(names["SETTINGS"].read_text())
    calls = names["calls"](names["PAGE"].read_text())
    assert calls.keys() == {check["name"] for check in settings["checks"]}
    assert all(set(check["environments"]) <= settings["environments"].keys() for check in settings["checks"])


def test_every_option_in_the_readme_exists() -> None:
    from fastprune.cli.main import COMMANDS, main

    context = click.Context(main)
    commands = [command for name in COMMANDS if (command := main.get_command(context, name))]
    known = {name for command in commands for option in command.params for name in option.opts}
    used = set(re.findall(r"(?<=\s)--[a-z-]+", (ROOT / "README.md").read_text()))
    assert used
    assert used <= known


def run_example(name: str, monkeypatch: pytest.MonkeyPatch, **options: object) -> None:
    given = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    monkeypatch.setattr(sys, "argv", [name, *given])
    runpy.run_path(str(ROOT / f"examples/{name}.py"), run_name="__main__")


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize(
    ("name", "takes", "says"),
    [
        ("halve_my_classifier", {"test", "output"}, "pruned {'accuracy'"),
        ("prune_for_this_latency", {"output", "share", "batch_size", "seq_len"}, "times as fast"),
        ("add_a_criterion", set(), "encoder.layer.1.ffn"),
        ("add_an_architecture", set(), "the same"),
        ("reproduce_the_paper", {"test"}, "after tuning {'accuracy'"),
    ],
)
def test_the_examples_of_a_classifier(
    name: str,
    takes: set[str],
    says: str,
    tiny_checkpoint: Path,
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    known = {"test": tiny_data, "output": tmp_path / "out", "share": 0.95, "batch_size": 2, "seq_len": 8}
    options = {key: value for key, value in known.items() if key in takes}
    run_example(name, monkeypatch, model=tiny_checkpoint, data=tiny_data, **options)
    assert says in capsys.readouterr().out
    assert not takes & {"output"} or fastprune.load(tmp_path / "out").num_parameters() > 0


def test_the_example_of_an_embedding_model(
    tiny_config: BertConfig,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    BertModel(tiny_config).save_pretrained(tmp_path / "dense")
    tiny_tokenizer.save_pretrained(tmp_path / "dense")
    lines = tmp_path / "lines.txt"
    lines.write_text("the cat sat on the mat\na dog ran home\nthe fast dog\nwho is slow\n")
    run_example(
        "speed_up_my_embedding_model",
        monkeypatch,
        model=tmp_path / "dense",
        data=lines,
        test=lines,
        output=tmp_path / "out",
    )
    said = capsys.readouterr().out
    assert "cosine" in said
    assert "times as fast" in said


def test_the_example_of_a_language_model(
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    testing.tiny_model("llama", "ForCausalLM").save_pretrained(tmp_path / "dense")
    tiny_tokenizer.save_pretrained(tmp_path / "dense")
    lines = tmp_path / "lines.txt"
    lines.write_text("the cat sat on the mat\na dog ran home\nthe fast dog\nwho is slow\n" * 4)
    run_example(
        "a_small_language_model",
        monkeypatch,
        model=tmp_path / "dense",
        data=lines,
        test=lines,
        output=tmp_path / "out",
        max_length=16,
    )
    assert capsys.readouterr().out.count("perplexity") == 2


@pytest.mark.parametrize("notebook", sorted((ROOT / "examples").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_holds_the_cells_of_its_script(notebook: Path) -> None:
    """In their order, and no outputs."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    script = notebook.with_suffix(".py").read_text(encoding="utf-8")
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    places = [script.index(source) for source in code]
    assert places == sorted(places)
    assert not any(cell.get("outputs") for cell in cells)
    assert cells[0]["cell_type"] == "markdown"


@pytest.mark.parametrize("recipe", sorted((ROOT / "examples/recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_the_recipes_prune(recipe: Path) -> None:
    model = testing.tiny_model()
    result = fastprune.prune(model, testing.tiny_batches(model), budget=0.5, recipe=recipe)
    assert result.cost_after <= 0.5 * result.cost_before


def commands_in(path: Path) -> list[str]:
    """The fastprune commands that a page shows."""
    blocks = re.findall(r"```console\n(.*?)```", path.read_text(encoding="utf-8"), re.S)
    lines = [line.strip() for block in blocks for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    return [line.removeprefix("$ ").split(" > ")[0] for line in lines if line.startswith("$ fastprune ")]


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("command", sorted({command for page in PAGES for command in commands_in(page)}))
def test_every_command_in_the_documentation_can_be_typed(command: str) -> None:
    """Its options and arguments are those of the command; nothing runs."""
    _, name, *arguments = shlex.split(command, comments=True)
    found = main.get_command(click.Context(main), name)
    assert found is not None, name
    found.make_context(name, arguments)
