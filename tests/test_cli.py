"""The command line: what it prints, and how it refuses."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click.testing
import pytest
import torch

import fastprune
from fastprune.cli.main import Cli
from fastprune.registry import catalogue

Run = Callable[..., click.testing.Result]


def prune(run: Run, checkpoint: Path, data: Path, output: Path, *more: object) -> click.testing.Result:
    return run("prune", checkpoint, "--data", data, "--budget", 0.5, "--output", output, *more)


def test_prune_saves_a_smaller_model_that_evaluates_and_inspects(
    run: Run, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "small"

    result = prune(run, tiny_checkpoint, tiny_data, output, "--eval-data", tiny_data, "--json", "--batch-size", 4)

    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["cost"]["after"] <= 0.5 * summary["cost"]["before"]
    assert set(summary["metrics"]) == {"dense", "pruned"}
    evaluated = run("evaluate", output, "--data", tiny_data, "--json")
    assert json.loads(evaluated.stdout)["metrics"] == pytest.approx(summary["metrics"]["pruned"])
    inspected = json.loads(run("inspect", output, "--seq-len", 16, "--json").stdout)
    assert inspected["seq_len"] == 16
    shown = run("inspect", output, "--seq-len", 16).stderr
    assert "Counted for a sample of length 16:\nMACs: " in shown
    assert "parameters: " in shown
    assert [group["kept"] for group in inspected["groups"]] == [group["kept"] for group in summary["groups"]]
    assert [group["units"] for group in inspected["groups"]] == [group["units"] for group in summary["groups"]]
    assert "Saved in" in prune(run, tiny_checkpoint, tiny_data, tmp_path / "again").stderr


def test_the_same_seed_gives_the_same_model(run: Run, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert prune(run, tiny_checkpoint, tiny_data, tmp_path / name, "--samples", 5, "--seed", 3).exit_code == 0
    one, two = (fastprune.load(tmp_path / name).state_dict() for name in ("a", "b"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_options_reach_the_recipe(run: Run, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('[tuner]\nuse = "mask"\ndamp = 2.0\n')
    more = ("--recipe", recipe, "--set", "scorer.labels=model", "--set", "tuner.limit=5", "--cost", "params")

    assert prune(run, tiny_checkpoint, tiny_data, tmp_path / "out", "--set", "cost.scope=layers", *more).exit_code == 0

    written = json.loads((tmp_path / "out" / "fastprune.json").read_text())["recipe"]
    for line in ('use = "mask"', "damp = 2.0", "limit = 5.0", 'labels = "model"', 'use = "params"', 'scope = "layers"'):
        assert line in written


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--data", "nosuch.csv"), "no such file"),
        (("--budget", 0), "above 0 and at most 1"),
        (("--budget", 1.5), "above 0 and at most 1"),
        (("--budget", "nan"), "above 0 and at most 1"),
        (("--scorer", "fihser"), "did you mean 'fisher'"),
        (("--scorer", "magnitude", "--rearranger", "fisher"), "needs per-sample gradients"),
        (("--set", "tuner.damping=lots"), "takes float, 0 to 1,000; got 'lots'"),
        (("--set", "tuner.rate=inf"), "takes float, above 0, at most 1; got 'inf'"),
        (("--set", "tuner.fill=1e9"), "takes int, 0 to 131,072; got '1e9'"),
        (("--set", "tuner.damping=-0.1"), "takes float, 0 to 1,000; got '-0.1'"),
        (("--set", "cost.seq_len=-3"), "takes int | none, 1 to 10,000,000; got '-3'"),
        (("--set", "cost.seq_len=1000000"), "takes at most 64 tokens; 1000000 were requested"),
        (("--set", "scorer.max_tokens=0"), "takes int, 32 to 10,000,000; got '0'"),
        (("--schedule", "rounds", "--set", "schedule.steps=1000000"), "takes int, 1 to 100; got '1000000'"),
        (("--seed", 2**70), "is not in the range 0<=x<=4294967295"),
        (("--seed", -1), "is not in the range 0<=x<=4294967295"),
        (("--set", "damping=1"), "STAGE.OPTION=VALUE"),
        (("--pooling", "cls"), "--pooling is for embedding models"),
        (("--label-column", "nope"), "nope"),
        (("--recipe", "nosuch.toml"), "There is no such file: nosuch.toml"),
        (("--recipe", "bets"), "There is no preset 'bets'; did you mean 'best'"),
        (("--architecture", "nosuch.toml"), "There is no such file: nosuch.toml"),
        (("--architecture", "brt"), "There is no architecture 'brt'; did you mean"),
        (("--budget", 50), "got 50; 50 % is 0.5"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    run: Run, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, more: tuple[object, ...], message: str
) -> None:
    result = prune(run, tiny_checkpoint, tiny_data, tmp_path / "out", *more)

    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_a_sweep_names_the_recipe_whose_stages_do_not_fit(
    run: Run, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path
) -> None:
    words = ["sweep", tiny_checkpoint, "--data", tiny_data, "--eval-data", tiny_data, "--output", tmp_path / "out"]
    result = run(*words, "--recipes", "default,paper", "--scorer", "magnitude")
    assert result.exit_code == 2
    assert "The recipe 'paper' of the sweep: rearranger 'fisher' needs per-sample gradients" in result.stderr
    assert not (tmp_path / "out").exists()


def test_what_can_be_told_at_once_is_told_before_torch_is_imported(tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    sheet = tmp_path / "data.doc"
    sheet.touch()
    out = ("--output", tmp_path / "out")
    wrong = [
        ("prune", "./nothing", "--data", tiny_data, "--budget", 0.5, *out),
        ("prune", tmp_path / "empty", "--data", tiny_data, "--budget", 0.5, *out),
        ("prune", "a/b/c", "--data", tiny_data, "--budget", 0.5, *out),
        ("prune", "owner/name", "--data", "nothing.csv", "--budget", 0.5, *out),
        ("prune", "owner/name", "--data", sheet, "--budget", 0.5, *out),
        ("prune", "owner/name", "--data", tiny_data, "--budget", 50, *out),
        ("prune", "owner/name", "--data", tiny_data, "--speedup", 0.5, *out),
        ("prune", "owner/name", "--data", tiny_data, *out),
        ("prune", "owner/name", "--data", tiny_data, "--budget", 0.5, "--set", "damp=1", *out),
        ("prune", "owner/name", "--data", tiny_data, "--budget", 0.5, "--output", tmp_path),
        ("prun", "owner/name"),
        ("evaluate", "./nothing", "--data", tiny_data),
        ("inspect", "./nothing"),
        ("sweep", "owner/name", "--data", tiny_data, "--eval-data", tiny_data, "--budgets", "9:1", *out),
        ("sweep", "owner/name", "--data", tiny_data, "--eval-data", tiny_data, "--pick", "best", *out),
        ("shrink", "owner/name", "--data", tiny_data, "--eval-data", tiny_data, "--max-drop", -1, *out),
        ("shrink", "./nothing", "--data", tiny_data, "--eval-data", tiny_data, *out),
        ("report", tmp_path / "empty"),
        ("export", "./nothing", *out),
        ("export", "owner/name", "--set", "opset", *out),
        ("push", tmp_path / "empty", "owner/name"),
        ("demo", "--budget", 2, *out),
    ]
    code = (
        "import sys, json, click\nfrom fastprune.cli.main import main\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    try: main(arguments)\n"
        "    except SystemExit as stop: print(stop.code)\n"
        "    assert 'torch' not in sys.modules, arguments"
    )
    told = json.dumps([[str(part) for part in arguments] for arguments in wrong])
    done = subprocess.run([sys.executable, "-c", code, told], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2"] * len(wrong)
    assert "Traceback" not in done.stderr
    assert "Did you mean 'prune'?" in done.stderr
    assert not (tmp_path / "out").exists()


def test_brackets_in_names_are_no_markup(run: Run, tiny_checkpoint: Path, tmp_path: Path) -> None:
    data = tmp_path / "[red]data[" / "x] :smile:.txt"
    data.parent.mkdir()
    data.write_text("the cat sat\nthe dog ran home\na cat and a dog\n")
    output = tmp_path / "[bold]small[" / "x]"

    result = prune(run, tiny_checkpoint, data, output, "--no-bench")

    assert result.exit_code == 0, result.output
    said = "".join(result.stderr.split())
    assert "[red]data[/x]:smile:.txt" in said
    assert "[bold]small[/x]" in said
    assert run("report", output, "--output", tmp_path / "[b].html").exit_code == 0


def fails(*_: object, **__: object) -> None:
    raise RuntimeError("no such luck")


@pytest.mark.parametrize(
    ("place", "step"),
    [
        (
            "transformers.PreTrainedTokenizerFast.save_pretrained",
            "Saving the tokenizer failed: RuntimeError: no such luck; copy its files from the dense model's directory",
        ),
        ("fastprune.reports.pages.render", "The report failed: RuntimeError: no such luck"),
        ("fastprune.reports.cards.kept_picture", "The report failed: RuntimeError: no such luck"),
        ("fastprune.reports.cards.model_card", "The report failed: RuntimeError: no such luck"),
    ],
)
def test_a_pruned_model_is_saved_even_if_a_later_step_fails(
    run: Run,
    tiny_checkpoint: Path,
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    step: str,
) -> None:
    monkeypatch.setattr(place, fails)

    result = prune(run, tiny_checkpoint, tiny_data, tmp_path / "out", "--no-bench")

    assert result.exit_code == 1
    assert f"{step}. The pruned model is complete and saved in {tmp_path / 'out'}." in result.stderr
    assert fastprune.load(tmp_path / "out").num_parameters()


def test_a_pruned_model_is_saved_elsewhere_if_its_output_fails(
    run: Run, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = fastprune.PruningResult.save

    def save(result: fastprune.PruningResult, path: Path) -> Path:
        if path.name == "out" and path.parent == tmp_path:
            raise fastprune.errors.CheckpointError("The disk is full.")
        return before(result, path)

    monkeypatch.setattr(fastprune.PruningResult, "save", save)

    result = prune(run, tiny_checkpoint, tiny_data, tmp_path / "out", "--no-bench")

    assert result.exit_code == 1
    instead = result.stderr.partition("The disk is full. It was saved in ")[2].partition(" instead.")[0]
    assert fastprune.load(instead).num_parameters()


def test_a_disk_without_space_is_refused_before_any_work(
    run: Run, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100}))
    monkeypatch.setattr("fastprune.pipeline.prune.prune", fails)
    result = prune(run, tiny_checkpoint, tiny_data, tmp_path / "out")
    assert result.exit_code == 2
    assert "its disk has 0 MB free" in result.stderr


def test_errors_do_not_reach_the_terminal_with_control_characters(run: Run) -> None:
    result = run("evaluate", "./no\x1b[31mthing", "--data", "x.csv")
    assert result.exit_code == 2
    assert "\x1b" not in result.stderr
    assert r"./no\x1b[31mthing" in result.stderr


def test_exit_statuses_of_the_real_command(tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    """130 is that of the interrupted sweep below."""
    asked = ["prune", tiny_checkpoint, "--data", tiny_data, "--output", tmp_path / "out"]
    for arguments, status in (
        (["--version"], 0),
        (["nothing"], 2),
        ([*asked, "--budget", 50], 2),
        ([*asked, "--budget", 1e-6], 3),
    ):
        command = [sys.executable, "-m", "fastprune", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
    assert "\nError: The budget of 1e-06 of the MACs" in done.stderr
    assert not (tmp_path / "out").exists()


def test_exit_status_of_a_failure(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise fastprune.errors.ContractError("The scorer 'mine' returned no scores.")

    monkeypatch.setattr(catalogue, "entries", fail)
    assert (run("strategies").exit_code, run("strategies").stderr) == (
        1,
        "Error: The scorer 'mine' returned no scores.\n",
    )


def test_the_version_is_that_of_the_distribution(run: Run) -> None:
    assert run("--version").stdout == f"fastprune, version {fastprune.__version__}\n"
    assert fastprune.__version__ == importlib.metadata.version("fastprune")


def test_missing_labels_are_named_and_not_needed(run: Run, tiny_checkpoint: Path, tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("the cat sat\nthe dog ran home\na cat and a dog\n")

    refused = prune(run, tiny_checkpoint, lines, tmp_path / "out", "--set", "scorer.labels=dataset")

    assert refused.exit_code == 2
    assert "needs labels" in refused.stderr
    assert prune(run, tiny_checkpoint, lines, tmp_path / "out").exit_code == 0


def test_an_output_in_the_way_is_refused_before_anything_else(run: Run, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()

    result = run("prune", "no-model", "--data", "no-data", "--budget", 0.5, "--output", tmp_path / "full")

    assert result.exit_code == 2
    assert "is not empty" in result.stderr


def test_a_directory_without_weights(run: Run, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    (tiny_checkpoint / "model.safetensors").unlink()

    result = prune(run, tiny_checkpoint, tiny_data, tmp_path / "out")

    assert result.exit_code == 2
    assert "no weights" in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("prune", "--budget", 0.5, "--output", "out"),
        ("sweep", "--budgets", 0.5, "--eval-data", "train.csv", "--output", "out"),
        ("export", "--output", "out"),
        ("inspect",),
        ("measure",),
    ],
    ids=lambda command: command[0],
)
def test_commands_that_need_weights_name_an_export(
    run: Run, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch, command: tuple[Any, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.csv").write_bytes(tiny_data.read_bytes())
    (tiny_checkpoint / "model.safetensors").unlink()
    (tiny_checkpoint / "onnx").mkdir()
    (tiny_checkpoint / "onnx" / "model.onnx").touch()
    data = ("--data", "train.csv") if command[0] in ("prune", "sweep") else ()

    result = run(command[0], tiny_checkpoint, *data, *command[1:])

    assert result.exit_code == 2
    assert "was exported in the format 'onnx', for onnxruntime" in result.stderr
    assert not (tmp_path / "out").exists()


def test_nan_weights(run: Run, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    import safetensors.torch

    tensors = safetensors.torch.load_file(tiny_checkpoint / "model.safetensors")
    tensors["classifier.weight"][0, 0] = float("nan")
    safetensors.torch.save_file(tensors, tiny_checkpoint / "model.safetensors", metadata={"format": "pt"})

    result = prune(run, tiny_checkpoint, tiny_data, tmp_path / "out")

    assert result.exit_code == 2
    assert "have NaN or infinite values" in result.stderr


def test_quiet_says_nothing_and_verbose_says_more(
    run: Run, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path
) -> None:
    assert prune(run, tiny_checkpoint, tiny_data, tmp_path / "quiet", "--quiet").output == ""
    verbose = prune(run, tiny_checkpoint, tiny_data, tmp_path / "verbose", "--verbose").stderr
    assert "score: " in verbose
    assert "opened " in verbose


def test_json_on_standard_output_and_progress_and_logs_on_standard_error(
    run: Run, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FASTPRUNE_QUIET")
    result = prune(run, tiny_checkpoint, tiny_data, tmp_path / "out", "--json", "--verbose")
    assert json.loads(result.stdout)["output"] == str(tmp_path / "out")
    lines = [line.strip() for line in result.stderr.splitlines()]
    assert {"starting", "opening", "scoring", "tuning", "saving"} <= set(lines)
    assert any("score: 0" in line for line in lines)
    quiet = prune(run, tiny_checkpoint, tiny_data, tmp_path / "quiet", "--json", "--quiet")
    assert quiet.stderr == ""
    assert json.loads(quiet.stdout)


def test_an_interruption_leaves_the_journal_alone(
    run: Run, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fastprune.models.checkpoint._write_modelling_file", interrupt)  # weights are written by then

    result = prune(run, tiny_checkpoint, tiny_data, tmp_path / "out" / "small")

    assert result.exit_code == 130
    assert "Stopped" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["small.journal"]  # the same command goes on from it


def _interrupted(running: subprocess.Popen[str]) -> tuple[str, str]:
    """What a process says that is sent Ctrl-C, again where Python dropped it: in a destructor it goes unheard."""
    for _ in range(4):
        running.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return running.communicate(timeout=30)
    running.kill()
    return running.communicate()


def test_ctrl_c_in_the_middle_of_a_sweep(tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    """A real signal, to a real process, once something has been pruned: what is done is whole, and nothing else is there."""
    folder = tmp_path / "out" / "curve"
    asked = ["sweep", tiny_checkpoint, "--data", tiny_data, "--eval-data", tiny_data, "--output", folder]
    more = ["--seeds", ",".join(map(str, range(300))), "--recipes", "default,paper"]
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # also where tests run in the background
    start = f"{heard}; from fastprune.cli.main import main; main()"
    command = [sys.executable, "-c", start, *map(str, asked), *more]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    while not (folder / "sweep.json").exists() and running.poll() is None:
        time.sleep(0.05)
    said = _interrupted(running)

    assert running.returncode == 130, said
    assert said[0] == ""
    assert said[1].endswith("\nStopped. No incomplete files are left.\n")
    assert "Traceback" not in said[1]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"curve"}
    left = {path.name for path in folder.iterdir()} - {"sweep.json"}
    assert all(name.endswith(".journal") for name in left), left  # of the runs that were stopped
    assert len(fastprune.Sweep.read(folder / "sweep.json").runs) < 2400


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script(run: Run, shell: str) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0, result.output
    assert "_FASTPRUNE_COMPLETE" in result.stdout


def test_a_strategy_says_what_it_computes(run: Run) -> None:
    text = run("strategies", "scorer", "fisher").stdout
    for part in ("labels = 'auto'", "I_uu = 1/n sum_i g_iu^2", "arxiv.org/abs/2204.09656", "--set scorer.labels=auto"):
        assert part in text


@pytest.mark.parametrize("kind", ["scorer", "searcher", "rearranger", "tuner", "cost", "schedule"])
def test_every_strategy_says_its_formula_and_paper(kind: str) -> None:
    for entry in catalogue.entries(kind):
        assert len(entry["formula"]) > 4, f"{kind} {entry['name']} has no formula"
        assert "https://" in entry["paper"], f"{kind} {entry['name']} says not where its paper is to be read"


def test_strategies_and_presets_are_printed(run: Run, tmp_path: Path) -> None:
    assert "damping = 0.01" in run("strategies", "tuner", "weights").stdout
    assert {entry["name"] for entry in json.loads(run("strategies", "scorer", "--json").stdout)} >= {"fisher", "taylor"}
    recipe = tmp_path / "paper.toml"
    recipe.write_text(run("strategies", "preset", "paper").stdout)
    assert fastprune.Recipe.of(recipe) == fastprune.Recipe.of("paper")
    assert run("strategies", "scorers").exit_code == 2


def test_plugins_are_listed(run: Run) -> None:
    rows = json.loads(run("plugins", "--json").stdout)
    assert {"fisher", "lstsq", "encoder"} <= {row["name"] for row in rows}
    assert not any(row["problem"] for row in rows if row["distribution"].startswith("fastprune "))


def full_accelerator() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize(
    ("fail", "told"),
    [
        (lambda: bytearray(2**62), True),
        (lambda: torch.empty(2**60), True),
        (full_accelerator, True),
        (lambda: torch.ones(2) @ torch.ones(3), False),
    ],
    ids=["python", "torch", "accelerator", "something else"],
)
def test_too_little_memory_is_told(fail: Callable[[], object], told: bool) -> None:
    group = Cli(commands={"work": click.Command("work", callback=fail)})
    done = click.testing.CliRunner().invoke(group, ["work"])
    assert done.exit_code == 1
    assert ("Error: There is not enough memory." in done.stderr) == told
    assert isinstance(done.exception, SystemExit) == told
