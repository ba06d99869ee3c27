"""The runs of a study, in the order in which one needs the other."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .definition import Study
from .partitions import fraction_name

ZERO_SHOT = 0.0


@dataclass(frozen=True)
class Run:
    """One classifier.

    Attributes:
        sequences: Name of its sequence set.
        pretraining: real, synthetic or none.
        fraction: Share of institution 2's training set that it learns from; 0 is zero-shot.
        trial: From 0.
    """

    sequences: str
    pretraining: str
    fraction: float
    trial: int

    @property
    def stage(self) -> str:
        """Which of the study's training options it takes."""
        if self.fraction == ZERO_SHOT:
            return "pretrain"
        return "scratch" if self.pretraining == "none" else "finetune"

    @property
    def start(self) -> "Run | None":
        """The run whose weights it starts from."""
        if self.stage != "finetune":
            return None
        return Run(self.sequences, self.pretraining, ZERO_SHOT, self.trial)

    def folder(self, study: Path) -> Path:
        """Where it lies in a study folder."""
        return study / "runs" / self.sequences / self.pretraining / fraction_name(self.fraction) / f"trial-{self.trial}"

    def __str__(self) -> str:
        return f"{self.sequences}, {self.pretraining}, {fraction_name(self.fraction)} %, trial {self.trial}"


def plan_runs(study: Study) -> Iterator[Run]:
    """Every run, trial by trial, so that a study that is cut short has whole trials."""
    for trial in range(study.trials):
        for sequences in study.sequences:
            for pretraining in study.pretraining:
                fractions = study.fractions if pretraining == "none" else (ZERO_SHOT, *study.fractions)
                for fraction in fractions:
                    yield Run(sequences, pretraining, fraction, trial)
