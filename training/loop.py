"""The training loop, one for every network: steps, log lines, validation, checkpoints, the model folder."""

import time
from pathlib import Path
from typing import Any

from ..imaging.errors import InputError
from .checkpoints import Checkpoint, latest_checkpoint, save_checkpoint
from .config import LoopTraining, differing_options, plain_options, write_config
from .engine import Engine
from .interruption import Interruption, TrainingInterrupted
from .reporting import Means, append_metrics, cut_metrics, describe_device, describe_line, describe_time, keep_finite
from .task import Log, Progress, Task, no_log


def run_folder(out: Path, stage: str) -> Path:
    """Where a stage keeps its config, metrics and checkpoints inside a model folder."""
    return out / "training" / stage


def train(
    task: Task, options: LoopTraining, out: Path, *, stage: str, resume: bool = False, log: Log = no_log
) -> Progress:
    """Trains a task to the end and writes its model folder.

    Args:
        task: The network, its data and its loss.
        options: Every option.
        out: The model folder; config.toml, metrics.jsonl and checkpoints lie in its `training/<stage>`.
        stage: Name of the stage.
        resume: Go on from the newest checkpoint; start anew where there is none.
        log: Takes lines for people.

    Returns:
        How the run ended.

    Raises:
        InputError: The folder holds a run and `resume` is False, or the run to resume differs in an option, the card
            or the data.
        TrainingDivergedError: A loss or gradient is not finite; names the step and the items of the batch.
        TrainingInterrupted: SIGTERM, SIGINT or the time limit; a checkpoint was saved.
    """
    refuse_existing(out, stage, resume)
    loop = _Loop(task, options, out, stage, log)
    loop.start(resume)
    with Interruption() as interruption:
        return loop.run(interruption)


def refuse_existing(out: Path, stage: str, resume: bool) -> None:
    """Raises InputError when `out` holds a run of this stage that is not to be resumed."""
    folder = run_folder(out, stage)
    checkpoint = latest_checkpoint(folder / "checkpoints")
    if checkpoint is not None and not resume:
        raise InputError(
            f"{folder} already holds a run of {checkpoint.step} steps.", "Add --resume, or choose another folder."
        )


def saved_constants(out: Path, stage: str) -> dict[str, Any]:
    """What the newest checkpoint of a stage says was computed from the training set; empty where there is none."""
    checkpoint = latest_checkpoint(run_folder(out, stage) / "checkpoints")
    return dict(checkpoint.state()["constants"]) if checkpoint is not None else {}


class _Loop:
    def __init__(self, task: Task, options: LoopTraining, out: Path, stage: str, log: Log) -> None:
        self.engine = Engine(task, options)
        self.main: bool = self.engine.accelerator.is_main_process
        self.task, self.options, self.out, self.stage = task, options, out, stage
        self.folder = run_folder(out, stage)
        self.log: Log = log if self.main else no_log
        self.hardware = describe_device(self.engine.device)
        self.seconds = 0.0
        self.figures: dict[str, float] = {}
        # Not read off `figures`, which the first process alone has: all must agree on when they wait for one another.
        self.validated = False

    def start(self, resume: bool) -> None:
        checkpoint = latest_checkpoint(self.folder / "checkpoints")
        if checkpoint is not None:
            self._restore(checkpoint)
        elif resume:
            self.log(f"No checkpoint in {self.folder}: starting at step 0.")
        if self.main:
            write_config(self.folder / "config.toml", self.stage, self.options)
            cut_metrics(self.folder / "metrics.jsonl", self.engine.step)
        self.log(
            f"Training {self.stage} on {self.hardware}, {self.options.precision}: {len(self.task.ids)} items, steps "
            f"{self.engine.step} to {self.options.steps}, batches of {self.options.batch_size}."
        )

    def run(self, interruption: Interruption) -> Progress:
        engine, options = self.engine, self.options
        began, base, means = time.monotonic(), self.seconds, Means()
        logged, logged_step = began, engine.step
        while engine.step < options.steps:
            means.add(engine.advance().scalars)
            now = time.monotonic()
            self.seconds = base + now - began
            last = engine.step == options.steps
            if last or engine.step % options.log_every == 0:
                self._report(means, (engine.step - logged_step) / max(now - logged, 1e-9))
                logged, logged_step = now, engine.step
            if last or _due(engine.step, options.validate_every):
                self._validate()
            over = options.stop_after_min > 0 and now - began >= options.stop_after_min * 60
            stop = engine.agree(over or interruption.requested is not None) and not last
            if last or stop or _due(engine.step, options.checkpoint_every):
                self._save()
            if not last and _due(engine.step, options.export_every):
                self._export()
            if stop:
                reason = f"by {interruption.requested}" if interruption.requested else "by the time limit"
                raise TrainingInterrupted(
                    f"Training of {self.stage} was stopped {reason} after step {engine.step}; the state is saved.",
                    "Run the same command with --resume to go on.",
                )
        if not self.validated:
            self._validate()
        self._export()
        self.log(f"Trained {self.stage}: {options.steps} steps in {describe_time(self.seconds)}.")
        return self._progress()

    def _report(self, means: Means, rate_hz: float) -> None:
        row = means.take()
        if self.main:
            self.log(describe_line(self.engine.step, self.options.steps, row, rate_hz))
            # A norm of infinity cannot come here: the step would have been refused.
            append_metrics(
                self.folder / "metrics.jsonl", {"step": self.engine.step, **row, "steps_per_s": round(rate_hz, 4)}
            )

    def _validate(self) -> None:
        figures = keep_finite(self.engine.validate())
        self.validated = True
        self.engine.accelerator.wait_for_everyone()
        if not self.main:
            return
        self.figures = figures
        words = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self.log(f"step {self.engine.step}/{self.options.steps}  validation: {words or 'no items'}")
        row = {f"validation/{name}": value for name, value in figures.items()}
        append_metrics(self.folder / "metrics.jsonl", {"step": self.engine.step, **row})

    def _save(self) -> None:
        if self.main:
            state: dict[str, Any] = {
                "stage": self.stage,
                "step": self.engine.step,
                "seconds": self.seconds,
                "options": plain_options(self.options),
                "identity": dict(self.task.identity),
                "constants": self.task.constants(),
                "figures": self.figures,
            }
            save_checkpoint(
                self.folder / "checkpoints", self.engine.step, self.engine.groups(), state,
                keep=self.options.keep_checkpoints,
            )  # fmt: skip
        self.engine.accelerator.wait_for_everyone()

    def _restore(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.state()
        different = differing_options(state["options"], plain_options(self.options))
        if different:
            name = different[0]
            raise InputError(
                f"The run in {self.folder} has {name} = {state['options'].get(name)!r}, this one "
                f"{plain_options(self.options).get(name)!r}"
                + (f"; also different: {', '.join(different[1:])}." if different[1:] else "."),
                f"Resume with its own options (--config {self.folder / 'config.toml'}), or choose another folder.",
            )
        for name in sorted(set(state["identity"]) | set(self.task.identity)):
            if state["identity"].get(name) != self.task.identity.get(name):
                raise InputError(
                    f"The run in {self.folder} was started with another {name}.",
                    f"Resume with the same {name}, or choose another folder.",
                )
        self.task.restore(state["constants"])
        self.engine.restore(checkpoint)
        self.seconds = state["seconds"]
        self.figures = dict(state["figures"])
        self.validated = bool(self.figures)
        self.log(f"Resuming from {checkpoint.path}.")

    def _export(self) -> None:
        if self.main:
            self.task.export(self.out, self.engine.weights(), self._progress())
        self.engine.accelerator.wait_for_everyone()

    def _progress(self) -> Progress:
        return Progress(self.engine.step, self.seconds, self.hardware, self.figures)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
