"""Checks of export formats."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from fastprune.errors import UsageError
from fastprune.exporting.agreement import difference, example_inputs
from fastprune.exporting.export import export
from fastprune.models.pretrained import Pretrained
from fastprune.registry import serving
from fastprune.strategies.export_formats import ExportFormat
from fastprune.surgery.materialize import materialize
from fastprune.testing.guards import untouched
from fastprune.testing.options import check_options
from fastprune.testing.problems import some_mask
from fastprune.testing.tiny import tiny_bpe_tokenizer, tiny_model, tiny_tokenizer

MODELS = (
    ("bert", "ForSequenceClassification"),
    ("llama", "ForCausalLM"),
    ("bert", "Model"),
    ("t5", "ForConditionalGeneration"),
    ("vit", "ForImageClassification"),
)
SHAPES = ((4, 7), (2, 20))
"""Samples and tokens: none that ``export`` itself compares on."""


def check_export_format(export_format: ExportFormat, *, model: nn.Module | None = None) -> None:
    """Models that it cannot hold are refused in a sentence. One of the others is written, pruned where the format holds that:
    the model is left as it was, and what was written, where it runs, gives the same outputs for any samples and tokens.

    Args:
        export_format: Whose packages are installed.
        model: A tiny model that it can hold; None: the first of a few transformers models that it does not refuse.
    """
    check_options(export_format)
    who = f"export format '{export_format.name}'"
    try:
        export_format.require_packages()
    except UsageError as error:
        raise AssertionError(f"The {who} cannot be checked: {error}") from error
    held = []
    for each in [model] if model is not None else [tiny_model(*names) for names in MODELS]:
        reason = export_format.refuses(_opened(each))
        assert isinstance(reason, str), f"The {who}: refuses() returns a sentence or an empty text, not {reason!r}."
        assert not reason or reason.endswith("."), (
            f"The {who} refuses a {type(each).__name__} with no sentence: '{reason}'."
        )
        held += [] if reason else [each]
    assert held, f"The {who} refuses every model that it was shown; give one that it holds."
    pruned = _pruned(held[0])
    taken = pruned is not None and not export_format.refuses(_opened(pruned))
    _check_written(export_format, _opened(pruned if pruned is not None and taken else held[0]), who)


def _check_written(export_format: ExportFormat, opened: Pretrained, who: str) -> None:
    model = opened.model
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "written"
        try:
            with untouched(model, who):
                export(opened, directory, format=export_format)
        except UsageError as error:
            raise AssertionError(f"The {who} writes no {type(model).__name__}: {error}") from error
        assert any(directory.iterdir()), f"The {who} writes nothing."
        exported = export_format.open(directory, threads=1)
        if exported is None:
            return
        assert export_format.files, f"The {who} runs its directories, but names no files that they are recognised by."
        assert exported.outputs, f"The {who} gives no outputs."
        for samples, tokens in SHAPES:
            inputs = example_inputs(opened, samples, tokens)
            off = difference(exported, model, inputs)
            assert off <= export_format.tolerance, (
                f"The {who} is off by {off:.2g} for {samples} samples of {tokens} tokens, more than {export_format.tolerance:g}."
            )
        try:
            exported(**{name: value.cpu() for name, value in inputs.items()}, no_such_input=torch.zeros(1))
        except Exception as error:  # whatever a runtime raises
            raise AssertionError(f"The {who} does not ignore an input that its model does not take: {error}") from error


def _opened(model: nn.Module) -> Pretrained:
    task = serving.task_for(model.config, type(model))  # type: ignore[arg-type]
    tokenizer = None
    if getattr(model, "main_input_name", "input_ids") == "input_ids":
        generates = getattr(model, "can_generate", lambda: False)()
        tokenizer = tiny_bpe_tokenizer(model) if generates else tiny_tokenizer(model)
    return Pretrained(model=model, tokenizer=tokenizer, task=task, source="")


def _pruned(model: nn.Module) -> nn.Module | None:
    """The model with half of the units of each layer, and none of the first; None where no architecture serves it."""
    groups = _opened(model).groups()
    return materialize(model, groups, some_mask(groups, empty=groups.items[0].name)).eval() if groups else None
