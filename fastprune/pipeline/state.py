"""The state of a run: what a pass changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from fastprune.journal.journal import Journal
from fastprune.models.plain import make_plain
from fastprune.pipeline.form import Form
from fastprune.pipeline.subject import Subject
from fastprune.surgery.materialize import materialize, own_parameters
from fastprune.units.groups import Groups
from fastprune.units.masks import Mask
from fastprune.units.resolve import resolve_groups
from fastprune.units.sharing import sharing_copy


@dataclass(frozen=True, kw_only=True)
class State:
    """The pruning between two passes.

    Attributes:
        subject: The dense model.
        student: The model pruned so far.
        groups: The student's groups.
        mask: The units kept, of those of the dense model.
        fixed: The groups that no later pass prunes.
        importance: The scores of the first pass, by the name of the group: [units].
        turn: The number of passes so far.
        reroute: Whether empty experts leave their router's choice.
        form: What the search may choose.
        plainness: In the plain form, the damage predicted for the first pass, ``plain``, and that of the ``free`` form at the same
            budgets.
        journal: What the run has computed so far.
    """

    subject: Subject
    student: nn.Module
    groups: Groups
    mask: Mask
    fixed: frozenset[str] = frozenset()
    importance: Mapping[str, Tensor] = field(default_factory=dict)
    turn: int = 0
    reroute: bool = False
    form: Form = Form()
    plainness: Mapping[str, float] = field(default_factory=dict)
    journal: Journal = Journal()

    @property
    def whole(self) -> bool:
        """Whether no unit is pruned yet."""
        return self.mask.whole

    @staticmethod
    def dense(subject: Subject, *, reroute: bool, journal: Journal, form: Form | None = None) -> State:
        """The state before the first pass: every unit kept."""
        return State(
            subject=subject,
            student=subject.teacher,
            groups=subject.groups,
            mask=Mask.full(subject.groups),
            reroute=reroute,
            form=form or Form(),
            journal=journal,
        )

    def corrected(self) -> State:
        """The state before a repetition with corrected tables, whose steps have entries of their own in the journal."""
        return replace(self, journal=self.journal.within("corrected"))

    def small(self, mask: Mask) -> nn.Module:
        """The student with the mask's units; it shares all parameters but those of producers and consumers."""
        return materialize(self.student, self.groups, mask, share=True, removable=self.form.removable)

    def alone(self) -> State:
        """The state with a student that shares no parameters with the given model."""
        student = sharing_copy(self.student)
        own_parameters([student], self.student)
        return replace(self, student=student)

    def finished(self) -> State:
        """The state with the finished student: in the plain form, what its class builds from its configuration."""
        if not self.form.plain:
            return self
        make_plain(self.student, self.subject.architecture, self.subject.groups)  # type: ignore[arg-type]
        return replace(self, groups=resolve_groups(self.subject.architecture, self.student))

    def kept(self, mask: Mask) -> Mask:
        """A mask of the student's units as one of the dense model's; removed layers have none."""
        none = {name: torch.zeros(int(before.sum()), dtype=torch.bool) for name, before in self.mask.values.items()}
        return Mask({**none, **mask.values}).within(self.mask)

    def after(
        self, student: nn.Module, kept: Mask, fixes: frozenset[str] | None, importance: Mapping[str, Tensor]
    ) -> State:
        """The state after a pass.

        Args:
            student: The model that the pass left.
            kept: The units that the pass kept, of those of this state's student.
            fixes: The groups that the pass fixed; None: none.
            importance: The scores of the pass.
        """
        groups = resolve_groups(self.subject.architecture, student)
        names = {group.name for group in groups}
        gone = frozenset(name for name in self.mask if name not in names)
        return replace(
            self,
            student=student,
            groups=groups,
            mask=self.kept(kept),
            fixed=self.fixed | (fixes or frozenset()) | gone,
            importance=self.importance or importance,
            turn=self.turn + 1,
        )
