"""The training loop, one for every network: steps, log lines, validation, checkpoints, the model folder."""

import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..export.devices import bf16_warning
from ..imaging.errors import InputError
from ..imaging.locks import FileLock, LockUnsupportedError
from .checkpoints import Checkpoint, find_checkpoint, latest_checkpoint, save_checkpoint
from .config import LoopTraining, plain_options, settle_length, write_config
from .curves import Curves
from .engine import Engine
from .interruption import Interruption, TrainingInterrupted
from .processes import settle_precision
from .reporting import Means, append_metrics, cut_metrics, describe_device, describe_line, describe_time, keep_finite
from .resumption import check_differences, find_differences
from .task import Log, Progress, Task, no_log

LOCK_FILE = "run.lock"


def run_folder(out: Path, stage: str) -> Path:
    """Where a stage keeps its config, metrics and checkpoints inside a model folder."""
    return out / "training" / stage


def train(
    task: Task, options: LoopTraining, out: Path, *, stage: str, resume: bool = False, log: Log = no_log,
    allow: Collection[str] = (),
) -> Progress:  # fmt: skip
    """Trains a task to the end and writes its model folder.

    Args:
        task: The network, its data and its loss.
        options: Every option.
        out: The model folder; config.toml, metrics.jsonl and checkpoints lie in its `training/<stage>`.
        stage: Name of the stage.
        resume: Go on from the newest checkpoint; start anew where there is none.
        log: Takes lines for people.
        allow: What may differ from the run that is resumed, of `resumption.ALLOWED`.

    Returns:
        How the run ended.

    Raises:
        InputError: The folder holds a run and `resume` is False, another process trains there, or the run to resume
            differs in an option, the card, the data or the number of processes.
        TrainingDivergedError: A loss or gradient is not finite; names the step and the items of the batch.
        TrainingInterrupted: SIGTERM, SIGINT or the time limit; a checkpoint was saved.
        OSError: The disk is full; the newest checkpoint is whole.
    """
    refuse_existing(out, stage, resume)
    loop = _Loop(task, settle_precision(settle_length(options, len(task.ids))), out, stage, log)
    try:
        loop.lock()
        loop.start(resume, allow)
        with Interruption() as interruption:
            return loop.run(interruption)
    finally:
        loop.close()


def refuse_existing(out: Path, stage: str, resume: bool) -> None:
    """Raises InputError when `out` holds a run of this stage that is not to be resumed."""
    folder = run_folder(out, stage)
    checkpoint = latest_checkpoint(folder / "checkpoints")
    if checkpoint is not None and not resume:
        raise InputError(
            f"{folder} already holds a run of {checkpoint.step} steps.",
            "Add --resume to go on with it, --overwrite to replace it, or choose another folder.",
        )


def saved_constants(out: Path, stage: str) -> dict[str, Any]:
    """What the newest checkpoint of a stage says was computed from the training set; empty where there is none.

    Raises:
        InputError: The checkpoint is of a version that trained this part in another way.
    """
    checkpoint = latest_checkpoint(run_folder(out, stage) / "checkpoints")
    if checkpoint is None:
        return {}
    state = checkpoint.state()
    if "constants" not in state:
        raise InputError(
            f"{checkpoint.path} is of a run of an earlier version, which this one cannot go on with.",
            "Keep the part that it made, or start anew with --overwrite.",
        )
    return dict(state["constants"])


class _Loop:
    def __init__(self, task: Task, options: LoopTraining, out: Path, stage: str, log: Log) -> None:
        self.engine = Engine(task, options)
        self.main: bool = self.engine.accelerator.is_main_process
        self.task, self.options, self.out, self.stage = task, options, out, stage
        self.folder = run_folder(out, stage)
        self.log: Log = log if self.main else no_log
        self.hardware = describe_device(self.engine.device, self.engine.processes)
        self.seconds = 0.0
        self.figures: dict[str, float] = {}
        # Not read off `figures`, which the first process alone has: all must agree on when they wait for one another.
        self.validated = False
        self.best: dict[str, Any] = {}
        self.changes: list[str] = []
        self.curves = Curves(None, 0)
        self._lock: FileLock | None = None

    def lock(self) -> None:
        """Keeps other runs out of the folder, until `close` or the end of the process."""
        if not self.main:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.folder / LOCK_FILE)
        try:
            free = self._lock.acquire()
        except LockUnsupportedError:
            self.log(f"{self.folder} lies on a file system without locks: take care that no other run trains there.")
            return
        if not free:
            raise InputError(f"Another process is training in {self.folder}.", "Wait for it, or give another -o.")

    def start(self, resume: bool, allow: Collection[str]) -> None:
        checkpoint = latest_checkpoint(self.folder / "checkpoints")
        if checkpoint is not None:
            self._restore(checkpoint, allow)
        elif resume:
            self.log(f"No checkpoint in {self.folder}: starting at step 0.")
        if self.main:
            write_config(self.folder / "config.toml", self.stage, self.options)
            cut_metrics(self.folder / "metrics.jsonl", self.engine.step)
            if self.options.tensorboard:
                self.curves = Curves(self.folder / "tensorboard", self.engine.step)
        self.log(
            f"Training {self.stage} on {self.hardware}, {self.options.precision}: {len(self.task.ids)} items, steps "
            f"{self.engine.step} to {self.options.last_step}, batches of {self.options.batch_size}."
        )
        if self.options.precision == "bf16" and (warning := bf16_warning(self.engine.device)) is not None:
            self.log(warning)

    def run(self, interruption: Interruption) -> Progress:
        engine, options = self.engine, self.options
        began, base, means = time.monotonic(), self.seconds, Means()
        logged, logged_step = began, engine.step
        while engine.step < options.last_step:
            means.add(engine.advance().scalars)
            now = time.monotonic()
            self.seconds = base + now - began
            last = engine.step == options.last_step
            if last or engine.step % options.log_every == 0:
                self._report(means, (engine.step - logged_step) / max(now - logged, 1e-9))
                logged, logged_step = now, engine.step
            better = (last or _due(engine.step, options.validate_every)) and self._validate()
            over = options.stop_after_min > 0 and now - began >= options.stop_after_min * 60
            stop = engine.agree(over or interruption.requested is not None) and not last
            if last or stop or better or _due(engine.step, options.checkpoint_every):
                self._save()
            if not last and _due(engine.step, options.export_every):
                self._export()
            if _due(engine.step, getattr(options, "samples_every", 0)):
                self._illustrate()
            if stop:
                reason = f"by {interruption.requested}" if interruption.requested else "by the time limit"
                raise TrainingInterrupted(
                    f"Training of {self.stage} was stopped {reason} after step {engine.step}; the state is saved.",
                    "Run the same command with --resume to go on.",
                )
        if not self.validated:
            self._validate()
        self._export(final=True)
        self.log(f"Trained {self.stage}: {options.last_step} steps in {describe_time(self.seconds)}.")
        return self._progress()

    def close(self) -> None:
        self.engine.feeder.close()
        self.curves.close()
        if self._lock is not None:
            self._lock.release()

    def _report(self, means: Means, rate_hz: float) -> None:
        row = means.take()
        if self.main:
            self.log(describe_line(self.engine.step, self.options.last_step, row, rate_hz))
            # In fp16 a gradient may overflow, and its step is left out: then its norm is infinite.
            self._record({**keep_finite(row), "steps_per_s": round(rate_hz, 4)})

    def _record(self, row: dict[str, float]) -> None:
        append_metrics(self.folder / "metrics.jsonl", {"step": self.engine.step, **row})
        self.curves.add(self.engine.step, row)

    def _validate(self) -> bool:
        """Measures the averaged weights; says, on every process, whether they are the best so far."""
        figures = keep_finite(self.engine.validate())
        self.validated = True
        score = _score(self.task, figures)
        better = self.engine.agree(score is not None and (not self.best or score > self.best["score"]))
        if self.main:
            self.figures = figures
            words = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
            note = "  (best so far)" if better and self.best else ""
            self.log(f"step {self.engine.step}/{self.options.last_step}  validation: {words or 'no items'}{note}")
            self._record({f"validation/{name}": value for name, value in figures.items()})
        if better:
            self.best = {"step": self.engine.step, "score": score, "figures": figures}
        return better

    def _save(self) -> None:
        groups = self.engine.groups()
        if self.main:
            state: dict[str, Any] = {
                "stage": self.stage,
                "step": self.engine.step,
                "seconds": self.seconds,
                "options": plain_options(self.options),
                **self._present(),
                "constants": self.task.constants(),
                "loss_scale": self.engine.precision.state(),
                "figures": self.figures,
                "best": self.best,
                "changes": self.changes,
            }
            save_checkpoint(
                self.folder / "checkpoints", self.engine.step, groups, state, keep=self.options.keep_checkpoints,
                spare=self.best.get("step"),
            )  # fmt: skip
        self.engine.accelerator.wait_for_everyone()

    def _present(self) -> dict[str, Any]:
        """What the run is, as far as its resumption has to agree with it."""
        details = {name: dict(table) for name, table in getattr(self.task, "details", {}).items()}
        return {"identity": dict(self.task.identity), "details": details, "world": self.engine.world}

    def _restore(self, checkpoint: Checkpoint, allow: Collection[str]) -> None:
        state = checkpoint.state()
        differences = find_differences(state, self._present(), self.options)
        changes = check_differences(differences, allow, str(self.folder), str(self.folder / "config.toml"))
        self.task.restore(state["constants"])
        self.engine.restore(checkpoint)
        self.seconds = state["seconds"]
        self.figures = dict(state["figures"])
        self.best = dict(state.get("best", {}))
        self.validated = bool(self.figures)
        self.changes = [*state.get("changes", []), *(f"step {checkpoint.step}: {words}" for words in changes)]
        self.log(f"Resuming from {checkpoint.path}.")
        for words in changes:
            self.log(f"Changed since, {words}.")

    def _export(self, final: bool = False) -> None:
        weights, progress = self.engine.weights(), self._progress()
        best = find_checkpoint(self.folder / "checkpoints", self.best.get("step"))
        if final and self.main and self.options.export_weights == "best" and best is not None:
            weights = best.tensors("model") | best.tensors("average")
            progress = Progress(best.step, self.seconds, self.hardware, self.best["figures"], tuple(self.changes))
            self.log(f"The model folder gets the weights of step {best.step}, the best validation.")
        if self.main:
            self.task.export(self.out, weights, progress)
        self.engine.accelerator.wait_for_everyone()

    def _illustrate(self) -> None:
        weights = self.engine.weights()
        if self.main:
            path = self.folder / "samples" / f"step-{self.engine.step:08d}.png"
            drawn = self.task.illustrate(path, weights, self.engine.device)  # type: ignore[attr-defined]
            self.log(f"Samples: {path}" if drawn else "There is no validation report to sample from.")
        self.engine.accelerator.wait_for_everyone()

    def _progress(self) -> Progress:
        return Progress(self.engine.step, self.seconds, self.hardware, self.figures, tuple(self.changes))


def _score(task: Task, figures: dict[str, float]) -> float | None:
    """How good validation figures are, higher is better: the task's own `score`, or the loss; None without either."""
    own = getattr(task, "score", None)
    if own is not None and figures:
        return float(own(figures))
    return -figures["loss"] if "loss" in figures else None


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
