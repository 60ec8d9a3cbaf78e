"""Every error that fastprune raises on purpose.

    FastpruneError
    ├── UsageError                what was asked for cannot be done: a bad option, budget, file or model
    │   ├── UnknownNameError      a name that no plugin registered, with the nearest and the whole list
    │   ├── OptionError           an option that a strategy does not have, or a value of the wrong type
    │   ├── BudgetError           a budget that is no budget, or one below what can be reached
    │   ├── DataError             calibration or evaluation data that cannot be read or does not fit the task
    │   ├── ModelError            a model that cannot be opened, or whose layers are not where they should be
    │   ├── TableError            a measured cost table that is broken, or of another model or machine
    │   ├── CheckpointError       a saved directory that is broken, of another format, or in the way
    │   └── ExportError           a model that cannot be made a graph, or a graph that computes something else
    ├── PluginError               a plugin that cannot be loaded or breaks the rules of registration
    └── ContractError             a strategy gave back what its contract forbids

The command line prints the message of any of them and exits with status 2; anything else is a bug of ours.
"""

from __future__ import annotations


class FastpruneError(Exception):
    """The root: catch this to catch whatever fastprune says on purpose."""


class UsageError(FastpruneError):
    """What was asked for cannot be done; the message says what was given, what was expected, what to do."""


class UnknownNameError(UsageError):
    """A name that nothing registered under."""


class OptionError(UsageError):
    """A strategy has no such option, or the value is not of its type."""


class BudgetError(UsageError):
    """The budget is not a number in (0, 1], or lies below what the model can be pruned to."""


class DataError(UsageError):
    """The data cannot be read, or lacks what the task needs."""


class ModelError(UsageError):
    """The model cannot be opened, or its architecture is unknown or does not fit it."""


class TableError(UsageError):
    """A measured cost table cannot be read, or was measured for something else; the differences are named."""


class CheckpointError(UsageError):
    """A directory that cannot be written, or that does not hold a whole pruned model."""


class ExportError(UsageError):
    """The model cannot be written in a format, or what was written computes something else."""


class PluginError(FastpruneError):
    """A plugin that does not load, or registers what it may not."""


class ContractError(FastpruneError):
    """A strategy returned something that its contract forbids; the message names the strategy and the group."""
