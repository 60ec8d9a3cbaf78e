"""The journal of a run."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from fastprune.errors import UsageError
from fastprune.files import PARTIAL, claimed, delete_abandoned, user_path, write_text
from fastprune.journal.entries import ENTRY, read_entry, write_entry
from fastprune.journal.places import DIGEST, HEAD, is_journal

log = logging.getLogger(__name__)

T = TypeVar("T")

SHORT = 60  # characters of a setting that a message repeats


@dataclass(frozen=True)
class Journal:
    """What a run has computed so far, by name. Without a folder, everything is computed and nothing is kept.

    Attributes:
        folder: The directory of the entries.
        generator: The generator of the steps, whose state is a part of each entry; None: the steps draw nothing.
    """

    folder: Path | None = None
    generator: torch.Generator | None = None

    @property
    def begun(self) -> bool:
        """Whether there are entries."""
        return self.folder is not None and any(self.folder.rglob(f"*{ENTRY}"))

    def once(self, name: str, compute: Callable[[Journal], T], generator: torch.Generator | None = None) -> T:
        """The result of a step: what an earlier, killed run kept, or what is computed now and kept.

        Args:
            name: Name of the step, the same in each run and different from those of other steps.
            compute: Computes the result: nested dicts, lists and tuples of tensors, numbers, texts and None. It is given a
                journal for steps within this one, whose entries are deleted once the result is kept.
            generator: What the step draws from [the journal's].
        """
        if self.folder is None:
            return compute(self)
        inner = self.within(name, generator)
        journal = replace(self, generator=inner.generator)
        found = journal.find(name)
        result: T = journal.keep(name, compute(inner)) if found is None else found
        inner.clear()
        return result

    def find(self, name: str) -> Any:
        """The result of a step that an earlier, killed run kept, None if there is none. The generator goes behind the step."""
        kept = read_entry(self.folder / f"{name}{ENTRY}") if self.folder else None
        if kept is None:
            return None
        if self.generator is not None:
            self.generator.set_state(kept["generator"])
        return kept["value"]

    def keep(self, name: str, value: T) -> T:
        """Keep the result of a step, for ``find``; returns it as ``find`` does."""
        if self.folder is None:
            return value
        state = None if self.generator is None else self.generator.get_state()
        try:
            result: T = write_entry(self.folder / f"{name}{ENTRY}", {"value": value, "generator": state})["value"]
            return result
        except UsageError as error:
            log.warning("The run goes on, but would start this step again if it were stopped. %s", error)
            return value

    def within(self, name: str, generator: torch.Generator | None = None) -> Journal:
        """The journal of the steps within a step. ``generator``: that of these steps [the same]."""
        folder = self.folder and self.folder / name
        return replace(self, folder=folder, generator=self.generator if generator is None else generator)

    def clear(self) -> None:
        """Delete the entries of these steps."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def discard(self) -> None:
        """Delete the journal of a run."""
        if self.folder is None:
            return
        for each in self.folder.glob("*"):
            if each.name != HEAD:
                shutil.rmtree(each) if each.is_dir() else each.unlink(missing_ok=True)
        (self.folder / HEAD).unlink(missing_ok=True)  # last: until then it is a journal
        self.folder.rmdir()


def open_journal(path: str | Path, fingerprint: Mapping[str, str]) -> Journal:
    """The journal in a directory: a new one, or that of the same run, which goes on.

    Args:
        path: The directory; it does not have to exist.
        fingerprint: What the run depends on, by name: its settings, and digests of its model and data.

    Raises:
        UsageError: The directory has other content, or the journal of another run; the message names what differs.
    """
    folder = user_path(path)
    if not is_journal(folder):
        if folder.is_dir() and any(not each.name.startswith(PARTIAL) for each in folder.iterdir()):
            raise UsageError(f"{path} exists and is no journal of a run; name another path.")
        write_text(folder / HEAD, json.dumps(dict(fingerprint), indent=1))
        return Journal(folder)
    before = json.loads((folder / HEAD).read_text(encoding="utf-8"))
    names = [*fingerprint, *(name for name in before if name not in fingerprint)]
    told = [_difference(name, before.get(name), fingerprint.get(name)) for name in names]
    if different := [each for each in told if each]:
        raise UsageError(
            f"The journal {path} is that of another run: it has {', '.join(different)}. Repeat that run's command, name another "
            "output, or start anew with --restart (in Python: delete the journal)."
        )
    for left in (folder, *(each for each in folder.rglob("*") if each.is_dir())):
        delete_abandoned(left)
    return Journal(folder)


@contextlib.contextmanager
def journalled(path: str | Path | None, fingerprint: Callable[[], Mapping[str, str]]) -> Iterator[Journal]:
    """Within the context, the journal of a run; it is deleted if the run ends with a ``UsageError``, as it always would.

    Args:
        path: The directory; None: a journal that keeps nothing.
        fingerprint: Computes what the run depends on, as for ``open_journal``.

    Raises:
        UsageError: As ``open_journal``, or another process has the journal.
    """
    if path is None:
        yield Journal()
        return
    try:
        user_path(path).mkdir(parents=True, exist_ok=True)  # so that each process claims it at the same place
    except OSError as error:
        raise UsageError(f"The journal {path} cannot be written: {error.strerror}; name another directory.") from error
    with claimed(path):
        journal = open_journal(path, fingerprint())
        try:
            yield journal
        except UsageError:
            journal.discard()
            raise


def _difference(name: str, before: str | None, now: str | None) -> str:
    """How a setting of the journal differs from the run's; empty if it does not."""
    if before == now:
        return ""
    if before and now and (before.startswith(DIGEST) or max(len(before), len(now)) > SHORT):
        return f"another {name}"
    if before is None or now is None:
        return f"no {name}" if before is None else f"{name} {before[:SHORT]}"
    return f"{name} {before}, not {now}"
