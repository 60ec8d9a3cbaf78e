"""The state of a run: what a pass changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from fastprune.pipeline.subject import Subject
from fastprune.units.groups import Groups
from fastprune.units.masks import Mask
from fastprune.units.resolve import resolve_groups


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
    """

    subject: Subject
    student: nn.Module
    groups: Groups
    mask: Mask
    fixed: frozenset[str] = frozenset()
    importance: Mapping[str, Tensor] = field(default_factory=dict)
    turn: int = 0
    reroute: bool = False

    @property
    def whole(self) -> bool:
        """Whether no unit is pruned yet."""
        return self.mask.whole

    @staticmethod
    def dense(subject: Subject, *, reroute: bool) -> State:
        """The state before the first pass: every unit kept."""
        return State(
            subject=subject,
            student=subject.teacher,
            groups=subject.groups,
            mask=Mask.full(subject.groups),
            reroute=reroute,
        )

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
        return replace(
            self,
            student=student,
            groups=resolve_groups(self.subject.architecture, student),
            mask=kept.within(self.mask),
            fixed=self.fixed | (fixes or frozenset()),
            importance=self.importance or importance,
            turn=self.turn + 1,
        )
