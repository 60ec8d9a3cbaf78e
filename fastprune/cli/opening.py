"""Opening models, data and architectures named by command-line options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from fastprune.cli.options import text_names
from fastprune.errors import UsageError
from fastprune.files import check_data, check_model, check_read, user_path

if TYPE_CHECKING:
    from datasets import Dataset
    from rich.console import Console

    from fastprune.data.batches import Batches
    from fastprune.data.mixes import DataMix
    from fastprune.data.tasks import Task
    from fastprune.models.pretrained import Pretrained
    from fastprune.strategies.export_formats import ExportFormat
    from fastprune.units.architecture import Architecture


def read_architecture_option(options: Mapping[str, Any]) -> Architecture | None:
    """The architecture of ``--architecture``: a TOML file or a registered name; None if not given."""
    from fastprune.registry.serving import named_architecture

    return named_architecture(options["architecture"]) if options["architecture"] else None


def named_file(value: str | None) -> str | None:
    """The value of an option that takes a name or a file, if it is a file: it has a suffix, or exists; else None."""
    return value if value and (user_path(value).suffix or user_path(value).is_file()) else None


def check_sources(model: str | None, *data: str | None) -> None:
    """Check that local models and data exist, before torch is imported.

    Raises:
        ModelError: The model does not exist.
        DataError: Data does not exist.
    """
    if model is not None:
        check_model(model)
    for each in data:
        if each is not None:
            check_data(each)


def read_sources(texts: Sequence[str]) -> DataMix:
    """The sources of ``--data`` with their shares; local ones exist.

    Raises:
        DataError: A source does not exist, or only some have a share.
        OptionError: A share is no number above 0.
    """
    from fastprune.data.mixes import DataMix

    mix = DataMix.read(texts)
    for source, _ in mix.parts:
        check_data(str(source))
    return mix


def check_files(*files: str | None) -> None:
    """Check that files exist; None is skipped.

    Raises:
        UsageError: A file does not exist.
    """
    for file in files:
        check_read(file)


def open_model(model: str, options: Mapping[str, Any], *, exported: bool = False) -> Pretrained:
    """The model of a command, on the device and in the dtype of its options.

    Args:
        model: A directory or Hub name.
        options: Those of ``model_options``.
        exported: Whether it may be a directory of ``fastprune export``, which runs on the CPU as it was written.
    """
    import dataclasses

    from fastprune.exporting.opening import format_of, open_exported
    from fastprune.models.pretrained import open_pretrained

    if export_format := format_of(model):
        if not exported:
            raise UsageError(
                f"{model} was exported in the format '{export_format.name}'{_readers(export_format)}; this command needs the model "
                "that it was exported from. Of exported models there are: evaluate, bench."
            )
        _check_as_written(model, options)
        opened = open_exported(model, trust_remote_code=options["trust_remote_code"])
    else:
        asked = {name: options[name] for name in ("dtype", "device", "trust_remote_code")}
        opened = open_pretrained(model, **asked)
    pooling = options.get("pooling")
    if pooling is None:
        return opened
    if not any(field.name == "pooling" for field in dataclasses.fields(opened.task)):
        raise UsageError(f"--pooling is for embedding models; {model} is a model for {opened.task.name}.")
    return dataclasses.replace(opened, task=dataclasses.replace(opened.task, pooling=pooling))  # type: ignore[call-arg]


def _readers(export_format: ExportFormat) -> str:
    return f", for {', '.join(export_format.servers)}" if export_format.servers else ""


def _check_as_written(model: str, options: Mapping[str, Any]) -> None:
    """Check that no option changes an exported model.

    Raises:
        UsageError: One does.
    """
    if (options["device"], options["dtype"]) not in (("auto", "auto"), ("cpu", "auto")):
        raise UsageError(f"{model} was exported and runs on the CPU as it was written; leave out --device and --dtype.")


def read_batches(
    source: str | DataMix,
    opened: Pretrained,
    options: Mapping[str, Any],
    *,
    samples: int | Literal["auto"] | None,
    seed: int = 0,
    splits: tuple[str, ...] = ("train",),
    data: Dataset | None = None,
    task: Task | None = None,
) -> Batches:
    """Read the batches of ``--data`` with the options of ``data_options``.

    Args:
        source: The value of ``--data``, or several.
        opened: The model.
        options: The command's options.
        samples: Rows to draw; "auto": as many as are usual for the task; None: all.
        seed: Seed of the draw.
        splits: Splits in order of preference, without ``--split``.
        data: The rows of the source, if they are read already.
        task: The task [the model's].
    """
    import dataclasses

    from fastprune.data.batches import token_limit
    from fastprune.data.encoding import make_batches
    from fastprune.data.tasks import Columns

    if opened.tokenizer is None:
        raise UsageError(f"{opened.source} has no tokenizer; save one there, or use the Python API with batches.")
    batches = make_batches(
        source if data is None else data,
        task or opened.task,
        opened.tokenizer,
        samples=samples,
        batch_size=options["batch_size"],
        max_length=options["max_length"],
        limit=token_limit(opened.model),
        seed=seed,
        columns=Columns(text=text_names(options["text_columns"]), label=options["label_column"]),
        split=options["split"] or splits,
    )
    return dataclasses.replace(batches, source=str(source))


def read_evaluation_rows(source: str, opened: Pretrained, options: Mapping[str, Any]) -> Dataset:
    """The rows of ``--eval-data``, of ``--eval-split``.

    Raises:
        DataError: They cannot be read.
    """
    from fastprune.data.reading import read_dataset
    from fastprune.measuring.evaluation import EVALUATION_SPLITS
    from fastprune.progress import step

    with step("reading"):
        return read_dataset(source, split=options["eval_split"] or EVALUATION_SPLITS, verbatim=opened.task.running_text)


def read_evaluation_batches(
    source: str, opened: Pretrained, options: Mapping[str, Any], data: Dataset | None = None
) -> Batches:
    """Read the batches of ``--eval-data``: all its rows, or those of ``data``.

    Its columns are those of ``--eval-text-columns`` and ``--eval-label-column``, else those of ``--data`` if it has them, else the
    usual ones.

    Raises:
        DataError: The data cannot be read or do not fit the model.
    """
    from fastprune.data.batches import check_tokens

    data = read_evaluation_rows(source, opened, options) if data is None else data
    task = opened.task.for_evaluation(stride=options["eval_stride"])
    texts, label = options["eval_text_columns"], options["eval_label_column"]
    if texts is None and set(text_names(options["text_columns"])) <= set(data.column_names):
        texts = options["text_columns"]
    if label is None and options["label_column"] in data.column_names:
        label = options["label_column"]
    evaluation = {**options, "text_columns": texts, "label_column": label, "split": None}
    evaluation["max_length"] = options["eval_max_length"] or options["max_length"]
    batches = read_batches(source, opened, evaluation, samples=None, data=data, task=task)
    check_tokens(opened.model, batches)
    return batches


def tell_missing(tests: Batches, where: Console) -> None:
    """Say what evaluation data lack for the metrics, if they lack anything, and what is measured instead."""
    if tests.missing:
        where.print(f"{tests.source}: {tests.missing} Without them, the agreement with the dense model is measured.")
