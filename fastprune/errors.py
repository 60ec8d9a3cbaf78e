"""Every error that fastprune raises on purpose.

    FastpruneError
    ├── UsageError                the request cannot be fulfilled: a bad option, budget, file or model
    │   ├── UnknownNameError      an unknown name of a strategy or of a model's group; the message has the closest names
    │   ├── OptionError           an unknown option of a strategy, or a value of the wrong type or out of range
    │   ├── BudgetError           an invalid budget
    │   │   └── UnreachableError  a budget that no pruning of the model can meet
    │   ├── DataError             calibration or evaluation data that cannot be read or does not fit the task
    │   │   └── RowError          the same, because of one row
    │   ├── ModelError            a model that cannot be opened, or whose architecture is unknown or does not fit it
    │   ├── TableError            a measured cost table that is broken, or of another model or machine
    │   ├── CheckpointError       an output directory that cannot be written, or a broken or unsupported saved model
    │   └── ExportError           a model that cannot be exported, or an exported model with different outputs
    ├── UnfinishedError           the model was pruned and saved, but a later step failed, such as its evaluation
    ├── PluginError               a plugin that cannot be loaded or breaks the rules of registration
    └── ContractError             a strategy returned a value that its contract forbids

The command line prints the message of these errors. It exits with status 3 for an UnreachableError, 2 for another UsageError and
1 for the others; an error that is not in this tree is a bug in fastprune.
"""

from __future__ import annotations


class FastpruneError(Exception):
    """Base class of all errors that fastprune raises on purpose."""


class UsageError(FastpruneError):
    """The request cannot be fulfilled; the message states the given value, the expected one, and what to do."""


class UnknownNameError(UsageError, KeyError):
    """The name is unknown: no plugin registered it, or the model has no such group."""

    __str__ = Exception.__str__  # a KeyError would put the message in quotes


class OptionError(UsageError):
    """The strategy has no such option, or a value has the wrong type or is out of range."""


class BudgetError(UsageError):
    """The budget is neither a number in (0, 1] nor an amount, or names no cost."""


class UnreachableError(BudgetError):
    """The request is valid, but no pruning of the model meets it; the message has the nearest that can be reached."""


class DataError(UsageError):
    """The data cannot be read, or has not the columns, labels or values that the task needs."""


class RowError(DataError):
    """A row does not fit the task.

    Attributes:
        row: The row's index in the data that was given.
        reason: The sentence without the row's number.
    """

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(f"Row {row + 1} of the data: {reason}")
        self.row, self.reason = row, reason


class ModelError(UsageError):
    """The model cannot be opened, or its architecture is unknown or does not fit it."""


class TableError(UsageError):
    """A measured cost table cannot be read, or its model or measurement conditions differ; the message lists the differences."""


class CheckpointError(UsageError):
    """The directory cannot be written, or does not contain a complete pruned model."""


class ExportError(UsageError):
    """The model cannot be written in a format, or the written model has different outputs."""


class UnfinishedError(FastpruneError):
    """The model was pruned and saved, but a later step failed; the message has its place and the reason."""


class PluginError(FastpruneError):
    """The plugin cannot be loaded, or breaks the rules of registration."""


class ContractError(FastpruneError):
    """A strategy returned a value that its contract forbids; the message names the strategy and the group."""
