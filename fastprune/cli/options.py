"""Options shared by several commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from fastprune.errors import OptionError
from fastprune.models.sentence_modules import POOLINGS
from fastprune.ranges import COUNT, MULTIPLE, THREADS, Range
from fastprune.strategies.vocabulary import CHARACTERS

DTYPES = ("float32", "float16", "bfloat16", "fp32", "fp16", "bf16")
QUANTIZED = ("int8", "int4")
"""Types of quantised weights."""
VERBOSITY = "fastprune.verbosity"


def _set_verbosity(ctx: click.Context, parameter: click.Parameter, given: bool) -> None:
    if given:
        ctx.find_root().meta[VERBOSITY] = parameter.name


def within(allowed: Range) -> click.IntRange:
    """The type of an option that takes integers of a range, which help prints."""
    least, most = (None if bound is None else int(bound) for bound in (allowed.at_least, allowed.at_most))
    return click.IntRange(least, most)


def verbosity_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for the messages on standard error, for long-running commands."""
    remember: dict[str, Any] = {"is_flag": True, "expose_value": False, "callback": _set_verbosity}
    quiet = click.option("-q", "--quiet", **remember, help="Print only errors.")
    return quiet(click.option("-v", "--verbose", **remember, help="Log each step and its duration.")(command))


def _with(options: Sequence[Callable[..., Any]], command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with further options, listed in their order in its help."""
    for option in reversed(options):
        command = option(command)
    return command


DATA = "a file, a directory, or a Hub name such as glue/mrpc"


STRIDE = "Tokens from one window of a language model's text to the next"


class Samples(click.IntRange):
    """The type of --samples: an integer, or ``auto``."""

    name = "integer or auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == "auto" else super().convert(value, param, ctx)


def calibration_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for the calibration set of ``prune`` and ``sweep``."""
    options = [
        click.option(
            "--data",
            required=True,
            multiple=True,
            metavar="SOURCE[:SHARE]",
            help=f"Calibration data: {DATA}. Repeat it for several sources, with the share of the samples of each: "
            "--data wiki.txt:0.7 --data chat.jsonl:0.3.",
        ),
        click.option(
            "--samples",
            type=Samples(1),
            default="auto",
            show_default=True,
            help="Number of calibration rows, at most; auto: 2,048 rows, or 128 windows of text of a language model.",
        ),
    ]
    return _with(options, command)


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for reading data."""
    options = [
        click.option("--split", help="Split of --data to read, for sources with several splits."),
        click.option(
            "--text-columns",
            help="Text columns of --data, separated by commas [default: guessed from usual names].",
        ),
        click.option("--label-column", help="Label column of --data [default: guessed from usual names]."),
        click.option(
            "--batch-size",
            type=within(COUNT),
            help="Samples per batch [default: 32; of a language model about 4,096 tokens].",
        ),
        click.option(
            "--max-length",
            type=within(COUNT),
            help="Maximum number of tokens per sample [default: the model's limit, at most 512; sentence-transformers: its own].",
        ),
    ]
    return _with(options, command)


def vocabulary_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for a smaller vocabulary."""
    options = [
        click.option(
            "--vocabulary",
            metavar="auto|SHARE|ROWS",
            help="Tokens to keep: a share with a point such as 0.3, a number of rows such as 12000, or auto: as few as make other "
            "texts at most 3 % longer [default: all].",
        ),
        click.option(
            "--vocabulary-coverage",
            type=float,
            metavar="SHARE",
            help="Instead of a size: keep the fewest tokens that are this share of the texts, such as 0.9999.",
        ),
        click.option(
            "--vocabulary-data",
            multiple=True,
            metavar="SOURCE[:SHARE]",
            help="Texts to count tokens in, as many as there are, in each language that is to stay [default: --data].",
        ),
        click.option(
            "--vocabulary-characters",
            type=click.Choice(CHARACTERS),
            default="auto",
            show_default=True,
            help="Single characters that always stay; auto: all for WordPiece, those in the texts for Unigram.",
        ),
    ]
    return _with(options, command)


def evaluation_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for reading ``--eval-data``."""
    options = [
        click.option("--eval-split", help="Split of --eval-data [default: validation, else test]."),
        click.option(
            "--eval-text-columns", help="Text columns of --eval-data [default: those of --data, if it has them]."
        ),
        click.option(
            "--eval-label-column", help="Label column of --eval-data [default: that of --data, if it has it]."
        ),
        click.option(
            "--eval-max-length",
            type=within(COUNT),
            help="Maximum number of tokens per sample of --eval-data; of a language model the context of its perplexity "
            "[default: --max-length].",
        ),
        click.option("--eval-stride", type=within(COUNT), help=f"{STRIDE} [default: --eval-max-length]."),
    ]
    return _with(options, command)


def quantize_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for quantised weights of an export."""
    options = [
        click.option(
            "--quantize",
            type=click.Choice(QUANTIZED),
            help="Weights of 8 or 4 bits in an export; prune writes one for onnxruntime beside the model [default: float32].",
        ),
        click.option(
            "--max-drop",
            type=float,
            help="Points of the metric on --eval-data that --quantize may cost [default: a limit for the outputs, without labels].",
        ),
    ]
    return _with(options, command)


architecture_option = click.option(
    "--architecture",
    help="Architecture with the model's units: a TOML file, or a family by name [default: the model's family].",
)
"""Option for models of families that are not registered."""


def form_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for models that servers open without code of fastprune."""
    options = [
        click.option(
            "--servable",
            is_flag=True,
            help="Give all layers the same sizes, or remove whole layers, so that stock classes and servers open the result.",
        ),
        click.option(
            "--multiple",
            type=within(MULTIPLE),
            help="Make widths multiples of this number, such as 8, 32 or 64 [default: any widths].",
        ),
    ]
    return _with(options, command)


STAGES = ("cost", "scorer", "searcher", "rearranger", "tuner", "schedule")
"""The stages of a recipe that have an option of their own."""


def stage_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that replace parts of a recipe."""
    options = [
        architecture_option,
        click.option(
            "--cost", help="Cost that the budget limits, such as macs, params or latency [default: the recipe's]."
        ),
        click.option("--scorer", help="Importance criterion [default: the recipe's]."),
        click.option("--searcher", help="Search for the mask (stage 1) [default: the recipe's]."),
        click.option("--rearranger", help="Rearrangement of the mask (stage 2) [default: the recipe's]."),
        click.option("--tuner", help="Reconstruction of the kept weights (stage 3) [default: the recipe's]."),
        click.option("--schedule", help="Number of passes and their budgets [default: the recipe's]."),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="STAGE.OPTION=VALUE",
            help="Set an option of a stage, such as tuner.damping=0.1; repeatable.",
        ),
    ]
    return _with(options, command)


def read_settings(options: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Parse the STAGE.OPTION=VALUE texts of ``--set`` to options by stage.

    Raises:
        OptionError: A text has another form.
    """
    settings: dict[str, dict[str, str]] = {}
    for text in options["settings"]:
        path, equals, value = text.partition("=")
        stage, dot, name = path.partition(".")
        if not (equals and dot and name):
            raise OptionError(f"--set takes STAGE.OPTION=VALUE, such as scorer.labels=model; got '{text}'.")
        settings.setdefault(stage.strip(), {})[name.strip()] = value.strip()
    return settings


trust_option = click.option(
    "--trust-remote-code",
    is_flag=True,
    help="Run Python files of MODEL, for classes that transformers does not have; read them first.",
)
"""Option for code of the model's own directory."""


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for opening a model."""
    options = [
        click.option("--device", default="auto", show_default=True, help="Device, such as cpu, cuda, cuda:1 or mps."),
        click.option(
            "--dtype",
            type=click.Choice(["auto", *DTYPES]),
            default="auto",
            show_default=True,
            help="Data type for computing; auto: the checkpoint's, but float32 instead of half precision on a CPU.",
        ),
        click.option(
            "--pooling", type=click.Choice(POOLINGS), help="Pooling for a plain encoder used as embedding model."
        ),
        trust_option,
        click.option("--json", "as_json", is_flag=True, help="Print only JSON, on standard output."),
    ]
    command = verbosity_options(command)
    return _with(options, command)


def serving_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for timing a model as it will be served."""
    options = [
        click.option("--attention", help="Attention kernel, such as sdpa or eager [default: the model's]."),
        click.option("--threads", type=within(THREADS), help="CPU threads [default: torch's]."),
        click.option("--compile", is_flag=True, help="Compile the model with torch.compile."),
    ]
    return _with(options, command)


def text_names(text: str | None) -> tuple[str, ...]:
    """Names of columns, separated by commas."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())
