"""The command line: every command is a thin layer over a public Python call."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastprune.errors import FastpruneError, OptionError, UsageError
from fastprune.files import check_file, check_output
from fastprune.models.sentence_transformers import POOLINGS

if TYPE_CHECKING:
    from rich.console import Console

    from fastprune.data.batches import Batches
    from fastprune.models.pretrained import Pretrained
    from fastprune.pipeline.result import PruningResult
    from fastprune.units.architecture import Architecture


class Cli(click.Group):
    """Prints our errors as one sentence with exit status 2, stops cleanly at Ctrl-C, and finds commands of plugins."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FastpruneError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            click.echo("Stopped. Nothing is left half-written.", err=True)
            ctx.exit(130)

    def list_commands(self, ctx: click.Context) -> list[str]:
        self._add_outside_commands()
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.commands:
            self._add_outside_commands()
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            nearest = get_close_matches(args[0], self.list_commands(ctx), n=1)
            if not nearest:
                raise
            raise click.UsageError(f"{error.message} Did you mean '{nearest[0]}'?", ctx) from error

    def _add_outside_commands(self) -> None:
        """Plugins are only imported where there is one of somebody else's: importing ours takes seconds."""
        from fastprune.registry.hookspecs import GROUP

        if any(point.dist is None or point.dist.name != "fastprune" for point in entry_points(group=GROUP)):
            from fastprune.registry import loading

            loading.installed().manager.hook.register_commands(cli=self)


@click.group(cls=Cli, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("fastprune"), prog_name="fastprune")
def main() -> None:
    """Make a trained Transformer smaller and faster in minutes, without retraining.

    \b
    fastprune demo                                                    see it work
    fastprune prune MODEL --data train.csv --budget 0.5 --output DIR  halve your own model
    fastprune evaluate DIR --data test.csv                            what it lost
    """


VERBOSITY = "fastprune.verbosity"


def _set_verbosity(ctx: click.Context, parameter: click.Parameter, given: bool) -> None:
    if given:
        ctx.find_root().meta[VERBOSITY] = parameter.name


def verbosity_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How much is said on standard error, for every command that takes its time."""
    remember: dict[str, Any] = {"is_flag": True, "expose_value": False, "callback": _set_verbosity}
    quiet = click.option("-q", "--quiet", **remember, help="Say nothing but errors.")
    return quiet(
        click.option("-v", "--verbose", **remember, help="Say what each step does and how long it takes.")(command)
    )


@contextlib.contextmanager
def working(*, as_json: bool = False) -> Iterator[Console]:
    """Where a command talks to people while it works: progress bars and logs; other libraries' own bars are off."""
    from fastprune.cli import terminal
    from fastprune.progress import step

    verbosity = click.get_current_context().find_root().meta.get(VERBOSITY)
    where = terminal.console(quiet=as_json or verbosity == "quiet")
    with contextlib.ExitStack() as stack:
        stack.enter_context(terminal.progress_bar(where))
        if verbosity == "verbose":
            stack.enter_context(terminal.logs(where))
        with step("starting"):  # importing torch and transformers
            from fastprune.cli.quiet import quiet_libraries
        stack.enter_context(quiet_libraries())
        yield where


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How data are read, for every command that reads some."""
    options = [
        click.option("--split", help="Of a source with several."),
        click.option("--text-columns", help="One or two, separated by a comma; guessed from the usual names."),
        click.option("--label-column", help="Guessed from the usual names."),
        click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True),
        click.option("--max-length", type=click.IntRange(1), help="Tokens a sample at most; the model's, up to 512."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How a model is opened, for every command that opens one."""
    options = [
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps."),
        click.option(
            "--dtype",
            type=click.Choice(["auto", "float32", "float16", "bfloat16", "fp32", "fp16", "bf16"]),
            default="auto",
            show_default=True,
            help="auto: the checkpoint's, but float32 on a CPU.",
        ),
        click.option("--pooling", type=click.Choice(POOLINGS), help="Of a plain encoder's embedding."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output, and nothing else."),
    ]
    command = verbosity_options(command)
    for option in reversed(options):
        command = option(command)
    return command


@main.command(short_help="Prune a model to a budget and save the smaller one.")
@click.argument("model")
@click.option("--data", required=True, help="Calibration data: a file, a directory, or a Hub name such as glue/mrpc.")
@click.option("--budget", help="What may be left: 0.5 of the cost, or by cost: latency=0.6,params=0.7, latency=3.5ms.")
@click.option("--speedup", type=float, help="How many times as fast: --budget latency=1/SPEEDUP.")
@click.option("--target-ms", type=float, help="Milliseconds that a forward pass may take: --budget latency=..ms.")
@click.option("--latency-table", help="A table of fastprune measure, of this or another machine, instead of measuring.")
@click.option("--output", required=True, help="A directory that does not exist, or is empty.")
@click.option(
    "--preset",
    default="default",
    show_default=True,
    help="The recipe to start from, by name: 'fastprune strategies preset' lists them.",
)
@click.option("--recipe", help="A TOML file laid over the preset.")
@click.option("--architecture", help="Where the units are: a TOML file, or a family by name.")
@click.option("--cost", help="What the budget counts: macs, params, latency.")
@click.option("--scorer", help="The importance criterion.")
@click.option("--searcher", help="Stage 1.")
@click.option("--rearranger", help="Stage 2.")
@click.option("--tuner", help="Stage 3.")
@click.option("--schedule", help="How many passes.")
@click.option(
    "--set", "settings", multiple=True, metavar="STAGE.OPTION=VALUE", help="An option of a stage; repeatable."
)
@click.option("--samples", type=click.IntRange(1), default=2048, show_default=True, help="Rows to calibrate on.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--eval-data", help="Data to measure the dense and the pruned model on.")
@click.option("--eval-split", help="Of the evaluation data.")
@click.option("--reroute", is_flag=True, help="Experts that lose all filters leave their router's choice.")
@click.option("--bench/--no-bench", default=True, show_default=True, help="Time both models, for the report.")
@data_options
@model_options
def prune(model: str, data: str, output: str, **options: Any) -> None:
    """Prune MODEL, a directory or Hub name, to a budget, and save the smaller model.

    \b
    fastprune prune textattack/bert-base-uncased-MRPC --data glue/mrpc --budget 0.5 --output bert-half
    fastprune prune ./my-classifier --data train.csv --budget 0.4 --output small --eval-data test.csv
    fastprune prune sentence-transformers/all-MiniLM-L6-v2 --data sentences.txt --budget 0.5 --output mini
    fastprune prune ./my-classifier --data train.csv --speedup 2 --set cost.batch_size=1 --output fast
    """
    from fastprune.strategies import budgets

    check_output(output)
    budget, settings = _budget(options), _settings(options["settings"])
    asked = budgets.read_budget(budget)
    _check_sources(model, data, options["eval_data"])
    _check_read(_architecture_file(options["architecture"]), options["latency_table"])
    with working(as_json=options["as_json"]) as where:
        from fastprune.registry.recipe import Recipe
        from fastprune.strategies import limits

        architecture = _architecture(options)
        stages = {name: options[name] for name in ("cost", "scorer", "searcher", "rearranger", "tuner", "schedule")}
        stages["cost"] = stages["cost"] or limits.main_cost(asked)
        if options["latency_table"]:
            stages["cost"] = stages["cost"] or "latency"
            settings.setdefault("cost", {})["table_file"] = options["latency_table"]
        recipe = Recipe.of(options["preset"], file=options["recipe"], settings=settings, **stages)

        from fastprune.cli import terminal
        from fastprune.measuring.cost_tables import conditions_text
        from fastprune.pipeline import prune as pipeline
        from fastprune.reports import figures

        opened = _open(model, options)
        batches = _batches(data, opened, options, samples=options["samples"], seed=options["seed"])
        tests = None
        if options["eval_data"]:
            tests = _evaluation_batches(options["eval_data"], opened, options)
        where.print(f"{batches.n_samples} samples of {batches.mean_length} tokens on average from {data}")
        result = pipeline.prune(
            opened,
            batches,
            budget=budget,
            recipe=recipe,
            architecture=architecture,
            seed=options["seed"],
            reroute=options["reroute"],
            bench=options["bench"],
        )
        if tests is not None:
            result.metrics.update(_compare(opened, result, tests))
        result.save(output)
    if options["as_json"]:
        click.echo(json.dumps(result.summary() | {"output": output}))
        return
    where.print(terminal.groups_table(result.kept()))
    where.print(
        terminal.figures_table(
            figures.rows(result.summary()), f"{result.measure} {result.cost_after / result.cost_before:.3f}"
        )
    )
    for cost in result.costs:
        if "batch_size" in cost["conditions"]:
            where.print(f"{cost['name']} for {conditions_text(cost['conditions'])}")
    seconds = ", ".join(f"{stage} {value:.1f} s" for stage, value in result.timings.items())
    where.print(f"{seconds}\nSaved in {output}, with report.html. Load it: fastprune.load({output!r})")


@main.command(short_help="Measure a model, dense or pruned, on labelled data.")
@click.argument("model")
@click.option("--data", required=True, help="Labelled data: a file, a directory, or a Hub name such as glue/mrpc.")
@data_options
@model_options
def evaluate(model: str, data: str, **options: Any) -> None:
    """Print the task's own metrics of MODEL, dense or pruned, on some data.

    \b
    fastprune evaluate ./my-classifier --data test.csv
    fastprune evaluate small --data glue/mrpc --json
    """
    _check_sources(model, data)
    with working(as_json=options["as_json"]) as where:
        from fastprune.measuring.evaluation import EVALUATION_SPLITS
        from fastprune.measuring.evaluation import evaluate as measure

        opened = _open(model, options)
        batches = _batches(data, opened, options, samples=None, default_split=EVALUATION_SPLITS)
        metrics = measure(opened.model, batches)
    if options["as_json"]:
        click.echo(json.dumps({"task": opened.task.name, "samples": batches.n_samples, "metrics": metrics}))
        return
    where.print(f"{opened.task.name}, {batches.n_samples} samples of {data}")
    for name, value in metrics.items():
        click.echo(f"{name:<20} {value:.4f}")


@main.command(short_help="Show what can be pruned of a model, or what is left.")
@click.argument("model")
@click.option("--seq-len", type=click.IntRange(1), help="Tokens a sample, for MACs; 128, or 16,000 readings.")
@click.option("--architecture", help="Where the units are: a TOML file, or a family by name.")
@click.option("--draft", is_flag=True, help="Print an architecture for MODEL's family as TOML, found by running it.")
@model_options
def inspect(model: str, seq_len: int | None, draft: bool, **options: Any) -> None:
    """Show what can be pruned of MODEL, or what is left of a pruned one: units, MACs and parameters by group.

    With --draft: propose where the units of an unknown family are, and say how sure that is. The proposal goes to
    standard output, for a file; weights are not read.

    \b
    fastprune inspect textattack/bert-base-uncased-MRPC
    fastprune inspect bert-half --seq-len 64
    fastprune inspect ./my-model --draft > my.toml
    """
    _check_sources(model)
    _check_read(_architecture_file(options["architecture"]))
    if draft:
        _print_draft(model, as_json=options["as_json"])
        return
    with working(as_json=options["as_json"]) as where:
        from fastprune.cli import terminal
        from fastprune.measuring.inspection import inspect as look
        from fastprune.reports.figures import count

        architecture = _architecture(options)
        found = look(_open(model, options), seq_len=seq_len, architecture=architecture)
    if options["as_json"]:
        click.echo(json.dumps(found))
        return
    where.print(terminal.groups_table(found["groups"], found["measures"]))
    for name, of in (("macs", f" of a sample of length {found['seq_len']}"), ("parameters", "")):
        fixed = count(found["fixed"][name])
        where.print(f"{found['measures'][name]}{of}: {count(found[name])}, of which {fixed} cannot be pruned")


def _print_draft(model: str, *, as_json: bool) -> None:
    with working(as_json=as_json) as where:
        from fastprune.cli import terminal
        from fastprune.drafting.drafting import draft_architecture

        found = draft_architecture(model)
    if as_json:
        findings = [vars(finding) for finding in found.findings]
        click.echo(json.dumps({"findings": findings, "unclaimed": found.unclaimed, "toml": found.to_toml()}))
        return
    where.print(terminal.findings_table([vars(finding) for finding in found.findings]))
    click.echo(found.to_toml(), nl=False)


@main.command("check-architecture", short_help="Check that fastprune prunes a model's family rightly.")
@click.argument("model")
@click.option("--architecture", help="Where the units are: a TOML file, or a family by name.")
@click.option("--layers", type=click.IntRange(2), default=2, show_default=True, help="Of the model that is built.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output, and nothing else.")
@verbosity_options
@click.pass_context
def check_architecture(ctx: click.Context, model: str, architecture: str | None, layers: int, as_json: bool) -> None:
    """Run the conformance suite on MODEL's family: a model of its configuration, with random weights and few layers.

    Every check says whether what is pruned is what was masked: with half of the units gone, all of a group, all of all;
    saved and loaded, trained on, generating, tuned. The exit status is 1 where one fails.

    \b
    fastprune check-architecture ./my-model
    fastprune check-architecture ./my-model --architecture my.toml
    """
    _check_sources(model)
    _check_read(_architecture_file(architecture))
    with working(as_json=as_json) as where:
        from fastprune.cli import terminal
        from fastprune.testing.conformance import check_model

        given = _architecture({"architecture": architecture})
        found = check_model(model, architecture=given, layers=layers)
    failed = [verdict for verdict in found if not verdict.passed]
    if as_json:
        click.echo(json.dumps([vars(verdict) for verdict in found]))
    else:
        where.print(terminal.verdicts_table([(one.check, one.passed, one.detail) for one in found]))
        where.print(f"{len(found) - len(failed)} of {len(found)} checks passed.")
    ctx.exit(1 if failed else 0)


def serving_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How a model will be served, for every command that times one."""
    options = [
        click.option("--attention", help="The attention kernel, such as sdpa or eager; the model's."),
        click.option("--threads", type=click.IntRange(1), help="Of a CPU; torch's."),
        click.option("--compile", is_flag=True, help="Through torch.compile."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@main.command(short_help="Measure a latency table of a model on this machine.")
@click.argument("model", required=False)
@click.option("--output", help="The table, as JSON; with --show, a picture (.png, .svg, .pdf).")
@click.option("--show", help="Draw the curves of a table instead of measuring one.")
@click.option("--cost", default="latency", show_default=True, help="The cost model; it must be one that measures.")
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option("--seq-len", type=click.IntRange(1), help="Tokens a sample; 128, or 16,000 readings.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Times each width is measured.")
@click.option("--cache/--no-cache", default=True, help="Use and keep tables in the user's cache directory.")
@serving_options
@model_options
def measure(model: str | None, output: str | None, show: str | None, **options: Any) -> None:
    """Measure how long MODEL takes with any number of heads and filters, on this machine, as a table for --latency-table.

    \b
    fastprune measure ./my-classifier --batch-size 1 --seq-len 64 --output table.json
    fastprune measure ./my-classifier --device cuda --dtype bfloat16 --output table.json
    fastprune measure --show table.json
    """
    if bool(model) == bool(show):
        raise UsageError("Name a MODEL to measure, or a table to --show.")
    _check_sources(model)
    _check_read(show)
    if output:
        check_file(output)
    with working(as_json=options["as_json"]) as where:
        from fastprune.cli import terminal
        from fastprune.measuring import cost_tables
        from fastprune.strategies.tables import MeasuredTable

        if show:
            table = MeasuredTable.read(show)
        else:
            assert model is not None
            names = ("batch_size", "seq_len", "rounds", "cache", "attention", "threads", "compile")
            opened = _open(model, options)
            table = cost_tables.measure(opened, cost=options["cost"], **{name: options[name] for name in names})
        if output:
            cost_tables.draw(table, output) if show else table.save(output)
    if options["as_json"]:
        click.echo(table.to_json())
        return
    if show or not output:
        for curve in table.curves:
            where.print(cost_tables.title(curve))
            where.print(terminal.curve_table(table.measure, curve.kept, curve.cost, curve.spread))
    where.print(cost_tables.conditions_text(table.conditions))
    where.print(f"{table.total:.4g} {table.measure}, of which {table.fixed:.4g} cannot be pruned")
    if output:
        use = "" if show else f" Use it: fastprune prune ... --latency-table {output}"
        where.print(f"Saved in {output}.{use}", soft_wrap=True)


def _complete_kinds(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    return [kind for kind in KINDS if kind.startswith(incomplete)]


KINDS = ("scorer", "searcher", "rearranger", "tuner", "cost", "schedule", "preset", "architecture")
"""As the catalogue has them, without the seconds that importing it takes."""


@main.command(short_help="Time a dense and a pruned model side by side.")
@click.argument("dense")
@click.argument("pruned")
@click.option("--batch-size", type=click.IntRange(1), help="What PRUNED was measured for, or 32.")
@click.option("--seq-len", type=click.IntRange(1), help="Tokens a sample; what PRUNED was measured for, or 128.")
@click.option("--rounds", type=click.IntRange(1), default=15, show_default=True, help="Turns each.")
@click.option("--latency-table", help="What to predict from; else what the manifest of PRUNED says, if it fits.")
@serving_options
@model_options
def bench(dense: str, pruned: str, **options: Any) -> None:
    """Time DENSE and PRUNED in turns on the same inputs: median, spread, throughput, memory, and what was predicted.

    \b
    fastprune bench ./my-classifier small
    fastprune bench ./my-classifier small --batch-size 1 --seq-len 64
    fastprune bench dense-onnx small-onnx                             both of fastprune export: in onnxruntime
    """
    _check_read(options["latency_table"])
    with working(as_json=options["as_json"]) as where:
        from fastprune.cli import terminal
        from fastprune.measuring import side_by_side

        asked = {name: options[name] for name in ("batch_size", "seq_len", "rounds", "threads")}
        exported = [side_by_side.is_exported(each) for each in (dense, pruned)]
        if any(exported):
            if not all(exported) or options["attention"] or options["compile"] or options["latency_table"]:
                raise UsageError(
                    "An exported model is compared with an exported model, without --attention, --compile and "
                    "--latency-table: export both."
                )
            compared = side_by_side.bench_exported(dense, pruned, **asked)
        else:
            compared = side_by_side.bench_saved(
                _open(dense, options),
                _open(pruned, options),
                table_file=options["latency_table"],
                attention=options["attention"],
                compile=options["compile"],
                **asked,
            )
    figures = compared.summary()
    if options["as_json"]:
        click.echo(json.dumps(figures))
        return
    title = f"{compared.batch_size} x {compared.seq_len} tokens, {options['rounds']} rounds"
    where.print(terminal.figures_table(_bench_rows(figures), title))


@main.command(short_help="Write a model as ONNX or as a torch.export program.")
@click.argument("model")
@click.option("--output", required=True, help="A directory that does not exist, or is empty.")
@click.option("--format", type=click.Choice(["onnx", "torch-export"]), default="onnx", show_default=True)
@click.option("--opset", type=click.IntRange(1), help="Of ONNX; the exporter's.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output, and nothing else.")
@verbosity_options
def export(model: str, output: str, format: str, opset: int | None, as_json: bool) -> None:
    """Write MODEL, pruned or not, as a graph that runs without Python code, checked against PyTorch.

    \b
    fastprune export small --output small-onnx
    fastprune export small --format torch-export --output small-program
    """
    check_output(output)
    _check_sources(model)
    with working(as_json=as_json) as where:
        from fastprune.exporting import export as exporting
        from fastprune.models.pretrained import open_pretrained

        opened = open_pretrained(model, device="cpu", dtype="float32")
        made = exporting.export(opened, output, format=format, opset=opset)
    figures = {"file": str(made.file), "inputs": made.inputs, "outputs": made.outputs, "difference": made.difference}
    if as_json:
        click.echo(json.dumps(figures))
        return
    where.print(
        f"Saved {made.file}: {', '.join(made.inputs)} to {', '.join(made.outputs)}, any number of samples and tokens; "
        f"off by {made.difference:.1g} from PyTorch at most"
    )


@main.command(short_help="Upload a pruned model to the Hub.")
@click.argument("directory")
@click.argument("repository")
@click.option("--private", is_flag=True, help="Visible to its owner only, where it is new.")
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


def _bench_rows(figures: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """What a comparison found, for people."""
    from fastprune.reports.figures import count, ratio

    dense, pruned = figures["dense"], figures["pruned"]

    def row(name: str, say: Callable[[Mapping[str, Any]], str], means: str = "") -> tuple[str, str, str, str]:
        return name, say(dense), say(pruned), means

    rows = [
        row("milliseconds", lambda side: f"{side['milliseconds']['median']:.4g}", f"{figures['speedup']:.2f}x as fast"),
        row(
            "  middle half", lambda side: "{lower_quartile:.4g} to {upper_quartile:.4g}".format(**side["milliseconds"])
        ),
    ]
    if "predicted_milliseconds" in pruned:
        means = f"{figures['predicted_speedup']:.2f}x as fast"
        rows.append(row("  predicted", lambda side: f"{side['predicted_milliseconds']:.4g}", means))
    rows.append(row("samples a second", lambda side: f"{side['samples_per_second']:.4g}"))
    for name, key in (("weights", "weight_bytes"), ("memory beside them", "peak_bytes")):
        if key in dense:
            rows.append((name, f"{count(dense[key])}B", f"{count(pruned[key])}B", ratio(dense[key], pruned[key])))
    return rows


@main.command(short_help="Draw accuracy against cost over many budgets.")
@click.argument("model")
@click.option("--data", required=True, help="Calibration data: a file, a directory, or a Hub name such as glue/mrpc.")
@click.option("--eval-data", required=True, help="Labelled data to measure every model on.")
@click.option("--budgets", default="0.9:0.2:0.1", show_default=True, help="from:to:step, or 0.7,0.5,0.3.")
@click.option("--recipes", default="default", show_default=True, help="Presets and TOML files, separated by commas.")
@click.option("--seeds", default="0", show_default=True, help="Separated by commas.")
@click.option("--metric", help="Of the curve; the task's first.")
@click.option("--pick", help="Save the cheapest model that keeps to it: 'drop<=1' (points), or 'cost<=0.5'.")
@click.option("--output", required=True, help="A new directory, or that of a sweep to go on with.")
@click.option("--samples", type=click.IntRange(1), default=2048, show_default=True, help="Rows to calibrate on.")
@click.option("--eval-split", help="Of the evaluation data.")
@data_options
@model_options
def sweep(model: str, data: str, output: str, **options: Any) -> None:
    """Prune MODEL to many budgets and draw accuracy against cost. Interrupted, the same command goes on.

    \b
    fastprune sweep ./my-classifier --data train.csv --eval-data test.csv --output curve
    fastprune sweep ./my-classifier --data train.csv --eval-data test.csv --budgets 0.7,0.5,0.3 \\
        --recipes default,paper --seeds 0,1,2 --pick 'drop<=1' --output curve
    """
    from pathlib import Path

    from fastprune.pipeline.curves import read_rule
    from fastprune.strategies.budgets import read_budgets

    budgets, seeds = read_budgets(options["budgets"]), _seeds(options["seeds"])
    if options["pick"]:
        read_rule(options["pick"])
        check_output(Path(output) / "model")
    _check_sources(model, data, options["eval_data"])
    _check_read(*(name for name in options["recipes"].split(",") if name.endswith(".toml")))
    with working(as_json=options["as_json"]) as where:
        import functools

        from fastprune.cli import terminal
        from fastprune.pipeline import sweeps
        from fastprune.pipeline.curves import Sweep
        from fastprune.registry.recipe import Recipe

        recipes = {
            name: Recipe.of(file=name) if name.endswith(".toml") else Recipe.of(name)
            for name in options["recipes"].split(",")
        }
        state = Path(output) / "sweep.json"
        if state.is_file():
            where.print(
                f"Going on with the sweep in {output}: {len(Sweep.read(state).runs)} models are measured already."
            )
        opened = _open(model, options)
        tests = _evaluation_batches(options["eval_data"], opened, options)
        read = functools.cache(lambda seed: _batches(data, opened, options, samples=options["samples"], seed=seed))
        found = sweeps.sweep(
            opened,
            read,
            tests,
            budgets=budgets,
            recipes=recipes,
            seeds=seeds,
            metric=options["metric"],
            folder=output,
        )
        picked = found.pick(options["pick"]) if options["pick"] else None
        if picked:
            result = sweeps.prune_point(opened, read, picked, recipes[picked.recipe], seeds[0], Path(output))
            result.metrics.update(_compare(opened, result, tests))
            result.save(Path(output) / "model")
        sweeps.drop_scores(Path(output))
    if options["as_json"]:
        click.echo(found.to_json())
        return
    where.print(terminal.sweep_table(found))
    knee = found.knee()
    if knee:
        where.print(f"The knee: {found.sentence(knee)}.")
    if picked:
        where.print(f"Picked {picked.recipe} at {picked.budget:g}: {found.sentence(picked)}. Saved in {output}/model")
    where.print(f"The curve is in {output}/sweep.png and sweep.svg, all figures in sweep.csv and sweep.json")


@main.command(short_help="Show several pruned models side by side on one page.")
@click.argument("directories", nargs=-1, required=True)
@click.option("--output", default="report.html", show_default=True, help="The page.")
def report(directories: tuple[str, ...], output: str) -> None:
    """Show pruned models side by side on one page, which needs no network. Each has one of its own: DIR/report.html.

    \b
    fastprune report small smaller
    fastprune report runs/* --output runs.html
    """
    from fastprune.reports.pages import write_report

    check_file(output)
    click.echo(write_report(directories, output))


def _architecture(options: Mapping[str, Any]) -> Architecture | None:
    from fastprune.registry import loading
    from fastprune.units.toml import read_architecture

    given = options["architecture"]
    if not given:
        return None
    return read_architecture(given) if _architecture_file(given) else loading.installed().architecture[given]


def _architecture_file(given: str | None) -> str | None:
    """What was given where it is a file and no name: it ends in .toml, or is there."""
    return given if given and (Path(given).suffix or Path(given).is_file()) else None


def _seeds(text: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError as error:
        raise UsageError(f"Seeds are whole numbers separated by commas, such as 0,1,2; got {text}.") from error


@main.command(short_help="List what can be chosen, with formulas and papers.")
@click.argument("kind", required=False, shell_complete=_complete_kinds)
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def strategies(kind: str | None, name: str | None, as_json: bool) -> None:
    """List what can be chosen: all kinds, one KIND, or one strategy NAME with its options, formula and paper.

    \b
    fastprune strategies                            everything
    fastprune strategies scorer                     the importance criteria
    fastprune strategies scorer fisher              what it computes, and its options
    fastprune strategies preset paper > mine.toml   a recipe to edit and give to prune --recipe
    fastprune strategies architecture bert          a family to edit and give to prune --architecture
    """
    from fastprune.registry import catalogue

    if name and kind in ("preset", "architecture"):
        click.echo(catalogue.preset(name) if kind == "preset" else catalogue.architecture(name), nl=False)
        return
    entries = catalogue.entries(kind, name)
    if as_json:
        click.echo(json.dumps(entries))
    elif name:
        click.echo(_described(entries[0]))
    else:
        for entry in entries:
            click.echo(f"{entry['kind']:<12} {entry['name']:<14} {entry['summary']}")


def _described(entry: Mapping[str, Any]) -> str:
    """All that is known of one strategy, for people."""
    lines = [f"{entry['kind']} {entry['name']}, from the plugin {entry['plugin']}", "", entry["description"], ""]
    for option in entry["options"]:
        lines.append(f"    {option['name']} = {option['default']!r}  ({option['type']})  {option['help']}")
    lines += [""] * bool(entry["options"])
    for name in ("formula", "paper"):
        if entry[name]:
            lines.append(f"{name.capitalize():<9}{entry[name]}")
    if entry["use"]:
        lines.append(f"{'Use':<9}{entry['use']}")
    return "\n".join(lines).rstrip()


@main.command(short_help="List the installed plugins.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins(as_json: bool) -> None:
    """List the installed plugins, and what is wrong with those that did not load."""
    from fastprune.registry import loading as found

    rows = [{"name": p.name, "distribution": p.distribution, "problem": p.problem} for p in found.installed().found]
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        click.echo(f"{row['name']:<14} {row['distribution']:<24} {row['problem'] or 'loaded'}")


@main.command(short_help="Print the script that completes commands in a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes commands and options in a SHELL.

    \b
    fastprune completion bash > ~/.local/share/bash-completion/completions/fastprune
    fastprune completion zsh > ~/.zfunc/_fastprune       with fpath+=~/.zfunc before compinit
    fastprune completion fish > ~/.config/fish/completions/fastprune.fish
    """
    from click.shell_completion import get_completion_class

    completer = get_completion_class(shell)
    assert completer is not None
    try:
        click.echo(completer(main, {}, "fastprune", "_FASTPRUNE_COMPLETE").source())
    except RuntimeError as error:  # click asks the shell for its version
        raise UsageError(f"The completion for {shell} cannot be made: {error}.") from error


@main.command(short_help="Halve a real sentence encoder. Needs no Hub.")
@click.option("--output", default="fastprune-demo", show_default=True, help="Where the pruned model goes.")
@click.option("--budget", type=float, default=0.5, show_default=True, help="What may be left of the MACs.")
@click.option("--samples", type=click.IntRange(64), default=1024, show_default=True, help="Sentences to calibrate on.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output, and nothing else.")
@verbosity_options
def demo(output: str, budget: float, samples: int, as_json: bool) -> None:
    """Halve a real sentence encoder, without labels, on text that every Python has. Needs no Hub."""
    from fastprune.strategies import budgets

    check_output(output)
    budgets.read_budget(budget)
    with working(as_json=as_json) as where:
        from fastprune.cli import terminal
        from fastprune.cli.demo_run import run
        from fastprune.reports import figures

        outcome = run(output, budget=budget, samples=samples, say=where.print)
    if as_json:
        click.echo(json.dumps(outcome.figures))
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


def _check_sources(model: str | None, *data: str | None) -> None:
    """Refuse names that lead nowhere, before torch is imported."""
    from fastprune import sources

    if model is not None:
        sources.check_model(model)
    for each in data:
        if each is not None:
            sources.check_data(each)


def _check_read(*files: str | None) -> None:
    from fastprune.sources import check_read

    for file in files:
        check_read(file)


def _budget(options: Mapping[str, Any]) -> str:
    """--budget, --speedup and --target-ms as one text."""
    from fastprune.errors import BudgetError

    speedup, target = options["speedup"], options["target_ms"]
    given = [text for text in (options["budget"],) if text is not None]
    if speedup is not None:
        if not speedup >= 1:
            raise BudgetError(f"--speedup must be 1 or more; got {speedup:g}.")
        given.append(f"latency={1 / speedup!r}")
    if target is not None:
        given.append(f"latency={target!r}ms")
    if not given:
        raise BudgetError("Say how small or how fast: --budget 0.5, --speedup 2 or --target-ms 3.5.")
    if len(given) > 1 and not all("=" in text for text in given):
        raise BudgetError(
            "A budget without a name stands alone; with --speedup or --target-ms name it: --budget params=0.7."
        )
    return ",".join(given)


def _settings(values: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """STAGE.OPTION=VALUE texts to options by stage."""
    settings: dict[str, dict[str, str]] = {}
    for text in values:
        path, equals, value = text.partition("=")
        stage, dot, name = path.partition(".")
        if not (equals and dot and name):
            raise OptionError(f"--set takes STAGE.OPTION=VALUE, such as scorer.labels=model; got '{text}'.")
        settings.setdefault(stage.strip(), {})[name.strip()] = value.strip()
    return settings


def _open(model: str, options: Mapping[str, Any]) -> Pretrained:
    import dataclasses

    from fastprune.models.pretrained import open_pretrained

    opened = open_pretrained(model, dtype=options["dtype"], device=options["device"])
    pooling = options.get("pooling")
    if pooling is None:
        return opened
    if not any(field.name == "pooling" for field in dataclasses.fields(opened.task)):
        raise UsageError(f"--pooling is for plain encoders; {model} is a model for {opened.task.name}.")
    return dataclasses.replace(opened, task=dataclasses.replace(opened.task, pooling=pooling))  # type: ignore[call-arg]


def _batches(
    source: str,
    opened: Pretrained,
    options: Mapping[str, Any],
    *,
    samples: int | None,
    seed: int = 0,
    default_split: str | tuple[str, ...] = "train",
) -> Batches:
    from fastprune.data.batches import make_batches, token_limit
    from fastprune.data.tasks import Columns

    if opened.tokenizer is None:
        raise UsageError(
            f"There is no tokenizer in {opened.source}; save it there, or use the Python API with batches."
        )
    text = tuple(name.strip() for name in (options["text_columns"] or "").split(",") if name.strip())
    return make_batches(
        source,
        opened.task,
        opened.tokenizer,
        samples=samples,
        batch_size=options["batch_size"],
        max_length=options["max_length"],
        limit=token_limit(opened.model),
        seed=seed,
        columns=Columns(text=text, label=options["label_column"]),
        split=options["split"],
        default_split=default_split,
    )


def _evaluation_batches(source: str, opened: Pretrained, options: Mapping[str, Any]) -> Batches:
    from fastprune.measuring.evaluation import EVALUATION_SPLITS

    evaluation = {**options, "split": options["eval_split"]}
    return _batches(source, opened, evaluation, samples=None, default_split=EVALUATION_SPLITS)


def _compare(opened: Pretrained, result: PruningResult, tests: Batches) -> dict[str, Any]:
    """The metrics of both models where the data have labels; else how far the two agree."""
    from fastprune.measuring.evaluation import evaluate as measure
    from fastprune.measuring.evaluation import fidelity

    if not tests.has_labels and tests.task is not None and not tests.task.metrics_of_samples:
        return {"fidelity": fidelity(opened.model, result.model, tests)}
    return {"dense": measure(opened.model, tests), "pruned": measure(result.model, tests)}
