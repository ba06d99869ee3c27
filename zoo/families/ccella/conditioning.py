"""What a batch is conditioned on, and the adapter's work on it, which depends on report and timestep alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ....diffusion.guidance import guide
from ...card import Card
from .denoiser import CLASS_SCALE, CcellaDenoiser
from .graphs import TIMESTEPS_AT_ONCE, CompiledDenoiser

# A part as PyTorch has it, or as another runtime executes it.
AnyDenoiser = CcellaDenoiser | CompiledDenoiser


@dataclass(frozen=True)
class Conditions:
    """What one item is conditioned on.

    Attributes:
        text: Embedded report, L W.
        text_is_null: There was no report.
        class_label: Class that replaces the one predicted from the report, or None.
        spacing_mm: Voxel spacing of the image along its axes.
    """

    text: Tensor
    text_is_null: bool
    class_label: int | None
    spacing_mm: tuple[float, ...]


@dataclass(frozen=True)
class _Branch:
    """A report at the timesteps of one window: context T N D, class logits T K and class input T K."""

    context: Tensor
    logits: Tensor
    class_input: Tensor


class _AdapterWork:
    """What the adapter made of each report in one window of the timestep table, however many items ask for it.

    Reports are told apart as tensors, not by their values: whoever embeds one once gets its work done once. What the
    next window, or the next batch, does not need is let go before its work begins, so that no more is held than a
    batch has reports.

    Args:
        denoiser: Its adapter does the work.
        timesteps: The timestep table.
    """

    def __init__(self, denoiser: AnyDenoiser, timesteps: Sequence[int]) -> None:
        self.denoiser = denoiser
        self.timesteps = tuple(timesteps)
        # By start of the window and report; the report is kept, since an id is unique only as long as its object lives.
        self._done: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}

    def open(self, start: int, texts: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Context T N D and class logits T K of each report (L W) in the window that begins at entry `start`."""
        keys = [(start, id(text)) for text in texts]
        self._done = {key: work for key, work in self._done.items() if key in keys}
        device = self.denoiser.device
        for key, text in zip(keys, texts, strict=True):
            if key not in self._done:
                t = torch.tensor(self.timesteps[start : start + TIMESTEPS_AT_ONCE], device=device)
                self._done[key] = (text, *self.denoiser.ella(text.to(device)[None], None, t))
        return [self._done[key][1:] for key in keys]


class Plan:
    """A batch whose reports go through the adapter for many timesteps at once, outside the sampling loop.

    `TIMESTEPS_AT_ONCE` entries of the timestep table form a window, and one window is held at a time, so that memory
    does not grow with the number of steps.

    Args:
        denoiser: Adapter and U-Net.
        conditions: One entry per item of the batch.
        timesteps: The timestep table.
        guidance_scales: Classifier-free guidance at each timestep; 1.0 is none.
        null_text: Embedding of the empty report, L W.
        former: The plan of an earlier batch, whose adapter work is taken over where it is the same.
    """

    def __init__(
        self,
        denoiser: AnyDenoiser,
        conditions: Sequence[Conditions],
        *,
        timesteps: Sequence[int],
        guidance_scales: Sequence[float],
        null_text: Tensor,
        former: "Plan | None" = None,
    ) -> None:
        device = denoiser.device
        self._denoiser = denoiser
        self._texts = [item.text for item in conditions]
        self._labels = [item.class_label for item in conditions]
        self._null_text = null_text if any(scale != 1.0 for scale in guidance_scales) else None
        self._timesteps = timesteps
        self._guidance_scales = guidance_scales
        same = former is not None and former._work.denoiser is denoiser and former._work.timesteps == tuple(timesteps)
        self._work: _AdapterWork = former._work if former is not None and same else _AdapterWork(denoiser, timesteps)
        spacing = [item.spacing_mm for item in conditions]
        self._spacing_mm = torch.tensor(spacing, dtype=torch.float32, device=device)
        self._windows = range(0, len(timesteps), TIMESTEPS_AT_ONCE)
        self._start = -1
        self._branches: list[_Branch] = []
        self._null: _Branch | None = None
        self._probabilities: dict[int, list[Tensor]] = {}

    @property
    def class_probability(self) -> Tensor:
        """Probability of class 1 for each item, averaged over the whole timestep table; shape B."""
        for start in self._windows:
            if start not in self._probabilities:
                self._open(start)
        each = zip(*(self._probabilities[start] for start in self._windows), strict=True)
        return torch.stack([torch.cat(parts).mean() for parts in each]).float().cpu()

    def predict(self, z: Tensor, step: int) -> Tensor:
        """The network's guided output for its input `z` (B C x y z) at entry `step` of the timestep table."""
        place = step % TIMESTEPS_AT_ONCE
        if step - place != self._start:
            self._open(step - place)
        t = torch.full((len(z),), self._timesteps[step], device=z.device)
        context, class_input = self._stack(self._branches, place)
        scale = self._guidance_scales[step]
        if self._null is None or scale == 1.0:
            return self._denoiser.unet(z, t, context, class_input, self._spacing_mm)
        # Both guidance branches in one pass: half the passes over the weights.
        null_context, null_input = self._stack([self._null] * len(z), place)
        both = None if context is None or null_context is None else torch.cat([context, null_context])
        inputs = torch.cat([class_input, null_input])
        doubled = self._denoiser.unet(torch.cat([z, z]), t.repeat(2), both, inputs, self._spacing_mm.repeat(2, 1))
        conditional, unconditional = doubled.chunk(2)
        return guide(cond=conditional, uncond=unconditional, scale=scale)

    def run_adapter(self) -> None:
        """All of the adapter's work, window by window as in the loop; the first window comes last and is kept."""
        self._work = _AdapterWork(self._denoiser, self._timesteps)
        for start in reversed(self._windows):
            self._open(start)

    def _open(self, start: int) -> None:
        """Computes the window that begins at entry `start` of the timestep table, and lets go of the former one."""
        self._start, self._branches, self._null = start, [], None
        wanted = list(zip(self._texts, self._labels, strict=True))
        if self._null_text is not None:
            wanted.append((self._null_text, 0 if self._denoiser.config.class_input == "given" else None))
        works = self._work.open(start, [text for text, _ in wanted])
        branches = [self._branch(*work, label) for work, (_, label) in zip(works, wanted, strict=True)]
        self._branches = branches[: len(self._texts)]
        self._null = None if self._null_text is None else branches[-1]
        self._probabilities[start] = [branch.logits.softmax(-1)[:, 1] for branch in self._branches]

    def _branch(self, context: Tensor, logits: Tensor, label: int | None) -> _Branch:
        """One report at all timesteps of a window; the class that the user chose goes before the predicted one."""
        given = None
        if label is not None:
            given = torch.zeros_like(logits)
            given[:, label] = CLASS_SCALE
        return _Branch(context, logits, self._denoiser.class_values(logits, given))

    def _stack(self, branches: Sequence[_Branch], place: int) -> tuple[Tensor | None, Tensor]:
        """Context B N D and class input B K of one timestep."""
        has_text = self._denoiser.config.text_context
        context = torch.stack([branch.context[place] for branch in branches]) if has_text else None
        return context, torch.stack([branch.class_input[place] for branch in branches])


def prepare(
    card: Card,
    denoiser: nn.Module,
    conditions: Sequence[Conditions],
    *,
    timesteps: Sequence[int],
    guidance_scales: Sequence[float],
    null_text: Tensor,
    former: Plan | None = None,
) -> Plan:
    """Readies a batch for the sampling loop.

    The adapter depends on the report and the timestep alone (Grabke et al., CCELLA), so nothing of it belongs in the
    loop.

    Args:
        card: The model.
        denoiser: Its denoiser.
        conditions: One entry per item of the batch.
        timesteps: The timestep table, descending.
        guidance_scales: Classifier-free guidance at each timestep; 1.0 is none and costs no second branch.
        null_text: Embedding of the empty report, L W: what the unconditional branch sees.
        former: The plan of the batch before. A report that both have as the same tensor, the empty one included, goes
            through the adapter once where the timestep table is one window; a longer table is passed window by window.

    Returns:
        The plan.
    """
    assert isinstance(denoiser, AnyDenoiser)
    return Plan(
        denoiser,
        conditions,
        timesteps=timesteps,
        guidance_scales=guidance_scales,
        null_text=null_text,
        former=former,
    )
