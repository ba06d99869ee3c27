"""Sample: prompts in, images (or latents) out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ..diffusion.noise import ancestral_generator, draw_noise
from ..diffusion.samplers import is_stochastic
from ..diffusion.samplers import sample as run_sampler
from ..zoo.card import Card
from ..zoo.errors import CardError
from ..zoo.family import Plan, load_family
from ..zoo.forward import noise_schedule, predictor
from ..zoo.record import Record
from .decode import check_memory, decode_images, to_image
from .embeddings import Embedder, Embedding
from .encode import ItemCallback
from .errors import FailureLog
from .images import Preview, grid_affine, image_names, write_images
from .jobs import Batch, Job, decide
from .latents import latent_name, write_tensors
from .overlap import choose_writers, run_ahead, run_behind
from .prompts import PromptItem
from .provenance import execution_entry, licence_entry, model_entry
from .run_folder import RunFolder
from .sampler_settings import SampleSettings

if TYPE_CHECKING:
    from ..export.runtimes import Runtime
    from ..zoo.families.ccella.text import TextEncoder

# Called after every step of a batch: ids of the batch, steps done, steps in all.
StepCallback = Callable[[Sequence[str], int, int], None]
# A binary classifier's threshold for the label of a sampled item.
THRESHOLD = 0.5


@dataclass(frozen=True)
class _Sampler:
    """What every item of a run needs."""

    card: Card
    text_encoder: "TextEncoder"
    embedder: Embedder
    denoiser: torch.nn.Module
    autoencoder: torch.nn.Module | None
    run: RunFolder
    runtime: "Runtime"
    settings: SampleSettings
    common: dict[str, Any]
    warn: Callable[[str], None]
    on_step: StepCallback

    def names(self, job: Job) -> list[str]:
        if self.settings.latents_only:
            return [latent_name(job.item.id)]
        return image_names(self.card, job.item.id)

    def find(self, job: Job) -> list[Record] | None:
        """The item's records where it is done."""
        expected = {"prompt": job.item.text, "seed": job.seed, "conditions": job.conditions}
        return self.run.find_done(job.item.id, self.names(job), expected)

    def prepare(self, batch: Batch, former: Plan | None) -> Plan:
        """What the items are conditioned on, ready for the loop; work of the batch before is taken over."""
        assert batch.null_text is not None, "a batch without items"
        family = load_family(self.card.family)
        conditions = []
        for job, prompt in zip(batch.pending, batch.prompts, strict=True):
            if prompt.truncated:
                self.warn(
                    f"The prompt of {job.item.id} is longer than the text encoder's {self.text_encoder.window} tokens: "
                    "its beginning was cut off."
                )
            conditions.append(family.Conditions(prompt.features, False, job.item.class_label, job.spacing_mm))
        plan: Plan = family.prepare(
            self.card,
            self.denoiser,
            conditions,
            timesteps=self.settings.timesteps,
            guidance_scales=self.settings.guidance_scales,
            null_text=batch.null_text,
            former=former,
        )
        return plan

    @torch.no_grad()
    def denoise(self, jobs: Sequence[Job], plan: Plan) -> tuple[torch.Tensor, list[float]]:
        """Latents B C ... in the autoencoder's units, and the probability of class 1 per item."""
        settings, device = self.settings, self.runtime.device
        ids = [job.item.id for job in jobs]
        noise = torch.stack([draw_noise(job.seed, self.card.latent_shape) for job in jobs]).to(device)
        stochastic = is_stochastic(settings.sampler, settings.eta)
        z = run_sampler(
            predictor(self.card, plan, settings.timesteps, self.runtime.dtype),
            noise,
            schedule=noise_schedule(self.card),
            sampler=settings.sampler,
            timesteps=settings.timesteps,
            eta=settings.eta,
            generators=[ancestral_generator(job.seed) for job in jobs] if stochastic else None,
            callback=lambda i: self.on_step(ids, i + 1, settings.steps),
        )
        latents: torch.Tensor = load_family(self.card.family).unscale_latent(self.card, z)
        return latents, [float(p) for p in plan.class_probability]

    def finish(self, job: Job, prompt: Embedding, z: torch.Tensor, probability: float) -> Callable[[], list[Record]]:
        """Decodes one item's latent C ..., and gives what stores its images, or the latent, in whichever thread."""
        if not bool(torch.isfinite(z).all()):
            raise ArithmeticError("The sampler gave values that are not finite; try --precision fp32 or more steps.")
        label = job.item.class_label
        data = {
            "synthetic": True,
            "prompt": job.item.text,
            "prompt_truncated": prompt.truncated,
            "conditions": job.conditions,
            "class": label if label is not None else int(probability >= THRESHOLD),
            "class_probability": round(probability, 6),
            "seed": job.seed,
            "sampler": self.settings.entry(),
            "spacing_mm": list(job.spacing_mm),
            **job.item.origin,
            **({"meta": dict(job.item.meta)} if job.item.meta else {}),
            **self.common,
            "parents": [],
        }
        affine = grid_affine(self.card, job.spacing_mm)
        if self.autoencoder is None:
            path = self.run.artefact_path(job.item.id, latent_name(job.item.id))
            extra = {"channels": list(self.card.image.channel_names), "affine": affine.tolist(), "shape": list(z.shape)}
            record = Record(job.item.id, "latent", path, {**data, **extra})
            return lambda: [self.run.store_artefact(record, lambda path: write_tensors(path, {"z": z}))]
        x = decode_images(self.card, self.autoencoder, z[None].to(self.runtime.dtype), self.settings.memory_bytes)
        # The image leaves the device where it is stored, so that the device need not wait for that.
        return lambda: write_images(
            self.run, self.card, job.item.id, to_image(x[0]), affine=affine, data=data, listed=False
        )


def sample(
    items: Sequence[PromptItem],
    card: Card,
    *,
    text_encoder: "TextEncoder",
    denoiser: torch.nn.Module,
    autoencoder: torch.nn.Module | None,
    run: RunFolder,
    runtime: "Runtime",
    settings: SampleSettings,
    warn: Callable[[str], None] | None = None,
    on_item: ItemCallback | None = None,
    on_step: StepCallback | None = None,
    writers: int | None = None,
) -> Iterator[Record]:
    """Samples items. What comes out for an item depends on its prompt, conditions and seed, not on its batch or shard.

    Args:
        items: What to sample, each with a seed (prompts.expand_seeds), in the order of the manifest.
        card: The model.
        text_encoder: Its text encoder.
        denoiser: Its denoiser.
        autoencoder: Its autoencoder; None exactly when `settings.latents_only`.
        run: Where the results go.
        runtime: Device and precision of denoiser and autoencoder.
        settings: How to sample.
        warn: Called with a sentence the user should see, such as a prompt that was cut.
        on_item: Called with an item's id when it is through: with None, or with what it failed of.
        on_step: Called after every step of a batch.
        writers: Threads that write finished items while the next are made, and so many images held beside the one in
            the making; a further thread then embeds the prompts of the next batch. 0 does one thing after another. None
            decides by the device. What is written, and in which order, does not depend on it.

    Yields:
        The records of each item, one after another: a `volume` per channel, or one `latent` (tensor `z` in the
        autoencoder's units).

    Raises:
        InputError: A condition that does not fit the model, before anything is sampled.
        CardError: The model cannot sample, or its images cannot be written.
        ItemsFailedError: At the end, when some items failed; the others are done.
        RunFolderError: The folder is full or not writable.
    """
    if (autoencoder is None) != settings.latents_only:
        raise ValueError("Images need an autoencoder, and latents need none.")
    check_memory(card, autoencoder, settings.memory_bytes, runtime)
    if card.latent.scale is None:
        raise CardError(
            f"Model {card.id} has no latent.scale: it is not trained.", "Train it with `ccella train denoiser`."
        )
    jobs = [decide(item, card) for item in items]
    common = {
        "model": model_entry(card),
        "licence": licence_entry(card),
        **execution_entry(runtime),
        "batch_size": settings.batch_size,
    }
    sampler = _Sampler(
        card,
        text_encoder,
        Embedder(text_encoder, runtime.dtype),
        denoiser,
        autoencoder,
        run,
        runtime,
        settings,
        common,
        warn or (lambda sentence: None),
        on_step or (lambda ids, done, steps: None),
    )
    return _sample_all(sampler, jobs, choose_writers(runtime.device) if writers is None else writers, on_item)


def _sample_all(sampler: _Sampler, jobs: Sequence[Job], writers: int, on_item: ItemCallback | None) -> Iterator[Record]:
    log, preview = FailureLog(), Preview(sampler.run, sampler.card)
    # Closed at once after an error too: no thread goes on when the run's folder is given back.
    with (
        closing(run_ahead(_group(sampler, jobs), writers > 0)) as batches,
        closing(run_behind(_make_all(sampler, batches), writers)) as made,
    ):
        for job, store in made:
            log.total += 1
            records: list[Record] = []
            failure = None
            try:
                records = store()
            except ArithmeticError as error:
                failure = error
                log.add(job.item.id, error)
            sampler.run.keep(records)
            for record in records:
                preview.add(record)
                yield record
            if on_item is not None:
                on_item(job.item.id, failure)
    if not sampler.settings.latents_only:
        preview.write()
    log.finish()


def _group(sampler: _Sampler, jobs: Sequence[Job]) -> Iterator[Batch]:
    """Cuts the items into stretches with one batch of items to be made each, and embeds their prompts."""
    entries: list[tuple[Job, list[Record] | None]] = []
    prompts: list[Embedding] = []
    for job in jobs:
        done = sampler.find(job)
        entries.append((job, done))
        if done is None:
            prompts.append(sampler.embedder.embed(job.item.text))
        # A done item that waits for no other need not wait for a batch.
        if len(prompts) in (0, sampler.settings.batch_size):
            yield Batch(entries, prompts, sampler.embedder.null if prompts else None)
            entries, prompts = [], []
    if entries:
        yield Batch(entries, prompts, sampler.embedder.null)


def _make_all(sampler: _Sampler, batches: Iterator[Batch]) -> Iterator[tuple[Job, Callable[[], list[Record]]]]:
    """Denoises and decodes what is to be made; gives for every item, in input order, what stores it or fails."""
    plan: Plan | None = None
    for batch in batches:
        made: Iterator[tuple[Embedding, torch.Tensor, float]] = iter(())
        if batch.prompts:
            plan = sampler.prepare(batch, plan)
            made = zip(batch.prompts, *sampler.denoise(batch.pending, plan), strict=True)
        for job, done in batch.entries:
            if done is not None:
                yield job, partial(list, done)
                continue
            try:
                store = sampler.finish(job, *next(made))
            except ArithmeticError as error:
                store = partial(_fail, error)
            yield job, store


def _fail(error: Exception) -> list[Record]:
    raise error
