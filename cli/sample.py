"""`ccella sample`: reports in, exams out."""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..imaging.errors import InputError
from ..pipeline.seeds import Shard
from ..zoo.card import Card
from ..zoo.errors import UnknownModelError
from ..zoo.generation import SAMPLERS
from ..zoo.registry import find_card, list_cards
from .notes import say
from .options import (
    NumbersType,
    compute_options,
    fitting_batch_size_option,
    memory_option,
    model_option,
    output_option,
    preset_option,
    resolve_model,
    run_options,
    seeds_option,
    steps_option,
    stream_options,
)
from .output import Output, print_records
from .progress import Progress
from .stages import ItemCount, announce_runtime, require_weights, say_preview

if TYPE_CHECKING:
    from ..pipeline.prompts import PromptItem
    from ..pipeline.recipes import Recipe
    from ..pipeline.sampler_settings import SampleSettings

# What a sidecar decides, and therefore cannot be given beside --from.
DECIDED = (
    "prompt", "seeds", "label", "spacing_mm", "preset", "steps", "sampler", "guidance_scale", "guidance_interval",
    "runtime", "precision",
)  # fmt: skip


@click.command()
@click.option(
    "--prompt", metavar="FILE|DIR|MANIFEST|-",
    help="A report (text file), a folder of .txt files, a .csv or .jsonl manifest (id, prompt, and where wanted class, "
    "spacing, seed, patient_id), or - for standard input.",
)  # fmt: skip
@click.option(
    "--from", "sidecar", metavar="SIDECAR", type=click.Path(path_type=Path),
    help="Make the volume of this .json sidecar again, instead of --prompt.",
)  # fmt: skip
@output_option("Folder for the exams; made where missing.")
@model_option
@click.option("--class", "label", type=click.Choice(("0", "1")), help="Class, instead of the one the report implies.")
@click.option(
    "--spacing", "spacing_mm", type=NumbersType("X", "Y", "Z"), metavar="X,Y,Z",
    help="Voxel spacing in mm.  [default: the model's]",
)  # fmt: skip
@seeds_option
@preset_option
@steps_option
@click.option("--sampler", type=click.Choice(SAMPLERS), help="Sampling algorithm.  [default: the model's]")
@click.option(
    "--guidance", "guidance_scale", type=click.FloatRange(min=0), metavar="W",
    help="Classifier-free guidance; 1 is none.  [default: the model's]",
)  # fmt: skip
@click.option(
    "--guidance-interval", type=NumbersType("LEAST", "GREATEST", kind=int, zero=True), metavar="LEAST,GREATEST",
    help="Timesteps that are guided.  [default: the model's]",
)  # fmt: skip
@click.option("--latents", "latents_only", is_flag=True, help="Write latents for `ccella decode` instead of volumes.")
@fitting_batch_size_option
@memory_option
@compute_options
@run_options
@stream_options
@click.pass_context
def command(
    context: click.Context,
    prompt: str | None,
    sidecar: Path | None,
    out: Path,
    model: str | None,
    label: str | None,
    spacing_mm: tuple[float, ...] | None,
    seeds: tuple[int, ...] | None,
    preset: str | None,
    steps: int | None,
    sampler: str | None,
    guidance_scale: float | None,
    guidance_interval: tuple[int, int] | None,
    latents_only: bool,
    batch_size: int | None,
    memory_bytes: int | None,
    device: str,
    runtime: str,
    precision: str,
    shard: Shard | None,
    resume: bool,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make exams from radiology reports.

    Each report becomes a folder in DIR with one NIfTI volume per sequence and a JSON sidecar beside each. The file
    manifest.jsonl lists them and preview.png shows the first. The same seed gives the same exam, whatever the batch
    or shard.
    """
    from ..pipeline.conditions import check_conditions
    from ..pipeline.prompts import expand_seeds
    from ..pipeline.sampler_settings import choose_settings

    recipe = None
    if sidecar is not None:
        _refuse_decided(context)
        card, settings, recipe = _repeat(sidecar, model, batch_size or 1, latents_only)
        items, runtime, precision = [recipe.item], recipe.request_runtime(device), recipe.precision
    else:
        items = _read(prompt, context)
        card = resolve_model(model)
        items = [
            replace(
                item,
                class_label=item.class_label if label is None else int(label),
                spacing_mm=item.spacing_mm if spacing_mm is None else spacing_mm,
            )
            for item in items
        ]
        settings = choose_settings(
            card, preset=preset, sampler=sampler, steps=steps, guidance_scale=guidance_scale,
            guidance_interval=guidance_interval, batch_size=batch_size or 1, latents_only=latents_only,
        )  # fmt: skip
    settings = replace(settings, memory_bytes=memory_bytes)
    chosen = expand_seeds(items, seeds)
    chosen = list(shard.select(chosen)) if shard is not None else chosen
    check_conditions(chosen, card)
    if dry_run:
        _print_plan(chosen, card, settings, out, as_json)
        return
    options = {"runtime": runtime, "device": device, "precision": precision}
    _run(
        chosen, card, settings, options, out, recipe=recipe, fit_batch=batch_size is None, shard=shard, resume=resume,
        overwrite=overwrite, as_json=as_json,
    )  # fmt: skip


def _read(prompt: str | None, context: click.Context) -> "list[PromptItem]":
    from ..pipeline.prompts import read_prompts

    if prompt is None:
        raise click.UsageError("Give --prompt, or --from with a sidecar.", ctx=context)
    if prompt == "-":
        return _say_columns(read_prompts("-", sys.stdin.buffer))
    if not os.path.exists(prompt):  # noqa: PTH110 - unlike Path.exists, false for a whole report instead of an error
        shown = prompt if len(prompt) <= 60 else f"{prompt[:57]}..."
        raise InputError(
            f"There is no file or folder {shown!r}.",
            "Give the path of a report; for the words themselves: echo '...' | ccella sample --prompt - -o DIR",
        )
    return _say_columns(read_prompts(prompt))


def _say_columns(items: "list[PromptItem]") -> "list[PromptItem]":
    """Says which columns of a manifest look like a condition and are none, since they change no exam."""
    from ..pipeline.prompt_formats import near_columns

    for name, near in near_columns(dict.fromkeys(key for item in items for key in item.meta)).items():
        say(f"The manifest's {name!r} is kept in the sidecars and changes no exam; did you mean {near!r}?")
    return items


def _refuse_decided(context: click.Context) -> None:
    for option in context.command.params:
        given = context.get_parameter_source(option.name or "") is click.core.ParameterSource.COMMANDLINE
        if given and option.name in DECIDED:
            message = f"{option.opts[0]} cannot be given beside --from: the sidecar decides it."
            raise click.UsageError(message, ctx=context)


def _repeat(
    sidecar: Path, model: str | None, batch_size: int, latents_only: bool
) -> "tuple[Card, SampleSettings, Recipe]":
    """Everything as the sidecar says it was, on the same weights."""
    from ..pipeline.provenance import check_same_model
    from ..pipeline.recipes import from_sidecar

    recipe = from_sidecar(sidecar)
    made_with = str(recipe.model.get("id"))
    if model is None and made_with not in {card.id for card in list_cards()}:
        raise UnknownModelError(
            f"{sidecar} was made with model {made_with!r}, which the zoo does not have.",
            "Give the model's folder: --model ./folder",
        )
    card = find_card(model if model is not None else made_with)
    check_same_model(recipe.model, card, source=str(sidecar))
    settings = replace(recipe.settings(card, latents_only=latents_only), batch_size=batch_size)
    return card, settings, recipe


def _print_plan(
    items: "Sequence[PromptItem]", card: Card, settings: "SampleSettings", out: Path, as_json: bool
) -> None:
    say(
        f"Would sample {len(items)} items with {card.id}: {settings.sampler}, {settings.steps} steps, "
        f"{settings.guidance_words}, into {out}."
    )
    with Output("id", "seed", "class", "prompt", "folder", as_json=as_json) as output:
        for item in items:
            if as_json:
                output.add_object(
                    {"id": item.id, "seed": item.seed, "class": item.class_label, "path": (out / item.id).as_posix()}
                )
            else:
                words = " ".join(item.text.split())
                shown = words if len(words) <= 50 else f"{words[:47]}..."
                output.add_row(item.id, item.seed, item.class_label, shown, out / item.id)


def _run(
    items: "Sequence[PromptItem]",
    card: Card,
    settings: "SampleSettings",
    options: dict[str, str],
    out: Path,
    *,
    recipe: "Recipe | None",
    fit_batch: bool,
    shard: Shard | None,
    resume: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    from ..pipeline.batching import fit_batch_size
    from ..pipeline.provenance import model_entry
    from ..pipeline.run_folder import RunFolder
    from ..pipeline.sample import sample
    from ..zoo.loading import load_text_encoder

    graphs = ("adapter", "denoiser") if settings.latents_only else ("adapter", "denoiser", "decoder")
    runtime = announce_runtime(
        card, runtime=options["runtime"], device=options["device"], precision=options["precision"], graphs=graphs,
        batch_size=settings.batch_size, guidance_scale=settings.guidance_scale,
    )  # fmt: skip
    if recipe is not None and (sentence := recipe.compare_runtime(runtime)) is not None:
        say(sentence)
    # The denoiser first: where it is still to be trained, nobody should fetch gigabytes of the other parts before.
    parts = ["denoiser", "text_encoder"] if settings.latents_only else ["denoiser", "text_encoder", "autoencoder"]
    require_weights(card, *parts)
    recorded = settings.run_settings(model_entry(card), runtime.precision, runtime)
    with RunFolder(
        out, command="sample", settings=recorded, resume=resume, overwrite=overwrite, shard=shard, warn=say
    ) as run:
        text_encoder = load_text_encoder(card, device=str(runtime.device))
        denoiser = runtime.load(card, "denoiser")
        autoencoder = None if settings.latents_only else runtime.load(card, "autoencoder")
        if fit_batch:
            settings, sentence = fit_batch_size(card, settings, runtime, n_items=len(items), tokens=text_encoder.window)
            say(sentence)
        progress = Progress("sampling", "exams")
        count = ItemCount(progress, len(items))
        records = sample(
            items, card, text_encoder=text_encoder, denoiser=denoiser, autoencoder=autoencoder, run=run,
            runtime=runtime, settings=settings, warn=say, on_item=count.finish, on_step=count.advance,
        )  # fmt: skip
        print_records(records, progress, as_json=as_json)
    say_preview(run)
