"""What makes one run, and what its line in the journal holds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True)
class Configuration:
    """One run. Two runs with equal configurations give equal numbers on one machine.

    budget  share of DDP's egress, None for a rule that knows none
    lr      the largest of the schedule
    """

    task: str
    rule: str
    budget: float | None
    lr: float
    seed: int
    members: int
    steps: int

    @classmethod
    def of(cls, line: dict) -> Configuration:
        """Returns the configuration of a journal's line."""
        return cls(**{field.name: line[field.name] for field in fields(cls)})

    def label(self) -> str:
        budget = "no budget" if self.budget is None else f"{self.budget:.2%}"
        return (
            f"{self.task} {self.rule} {budget} lr={self.lr:.3g} seed={self.seed} members={self.members} "
            f"steps={self.steps}"
        )

    def as_dict(self) -> dict:
        return asdict(self)
