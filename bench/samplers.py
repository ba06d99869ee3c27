"""Few-step samplers against the published one: KID, FID with their floor, prompt fidelity and seconds for each.

Samples one exam for each of N reports that no training has seen, with every sampler at every number of steps, with the
card's presets, whose timesteps are their own, and with the published sampler (1000 steps of DDPM, no guidance), all
from the same noise; with --student also with a student of the model, which has learnt its guidance. Each set is
compared with the phantoms of the same reports. Writes docs/samplers.md and docs/samplers.png; a stopped run goes
on where it was. With --stored rows that bench/results/samplers.json has, of the same weights and reports, are taken
from there, each with the machine of its seconds: a student is added to a table that took hours.

    python bench/samplers.py -n 200
    python bench/samplers.py -n 200 --stored --student runs/student

Needs matplotlib (the extra `figures`).
"""

import argparse
import json
import time
import tomllib
import warnings
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from machine import RESULTS, describe_machine, report
from prompt_fidelity import TEST_SEED, run, write_prompts

from ccella.cli.main import run as run_here
from ccella.evaluation.fidelity import compare_features
from ccella.evaluation.image_features import summarise_set
from ccella.evaluation.image_sets import open_sets
from ccella.evaluation.images import VOLUME
from ccella.evaluation.prompts import evaluate_prompt
from ccella.metrics.kernel import subset_distances
from ccella.zoo.card import Card
from ccella.zoo.extractors import find_extractor, load_extractor
from ccella.zoo.folder import write_card
from ccella.zoo.registry import find_card
from ccella.zoo.runs import read_run

DOCS = RESULTS.parents[1] / "docs"
PROMPT_FIGURES = ("lesion_auc", "side_accuracy", "zone_accuracy")
PUBLISHED = "paper"
BALANCED = "balanced"
STUDENT = "student"


@dataclass(frozen=True)
class Way:
    """One way to sample: a row of the table.

    Attributes:
        label: What the row says in its first column; rows of one label make a line of the plot.
        steps: Evaluations of the network, guidance apart.
        arguments: Of `ccella sample`.
        preset: The card's preset that this is.
        published: The published sampler.
    """

    label: str
    steps: int
    arguments: tuple[str, ...]
    preset: str | None = None
    published: bool = False


INTRODUCTION = """# Few steps against the published sampler

Made by `python bench/samplers.py -n {n}` with {model}: one exam for each of {n} reports that no training has seen,
from the same noise in every row, compared with the phantoms of the same reports. Rows of a sampler visit timesteps
denser towards the clean image, down to {last}, with guidance {guidance:g}; presets what the card says; the published
sampler all timesteps, without guidance.

- KID and FID: extractor `{extractor}` on whole volumes, mean of the sequences. FID depends on the number of exams, so
  its floor, phantoms against phantoms in halves of {half}, stands beside `FID of halves`. The floor of KID is
  {kid:.4g}, that of FID {fid:.4g}.
- Prompt fidelity: what a reader trained on phantoms finds, as `ccella evaluate prompt`; the row `phantoms` is the
  ceiling.
- Seconds: the whole command, per exam, by the clock and of the processor (over all cores), on {machine}. A run
  of hours may have had company on the machine: ratios of times are what `bench/paper_algorithm.py` measures.
"""


def clock() -> np.ndarray:
    """Seconds by the clock and of the processor, all cores: the second says what other work on the machine hides."""
    return np.array([time.perf_counter(), time.process_time()])


def sample_timed(name: str, arguments: list[str], out: Path, count: int) -> np.ndarray:
    """Samples into a folder, going on where an earlier run stopped; see `clock`, per exam over all runs that ended."""
    record = out.with_suffix(".seconds.json")
    spent = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {"exams": 0, "seconds": [0.0, 0.0]}
    before = count_exams(out)
    if before < count:
        print(f"{name}: {count - before} of {count} exams to sample", flush=True)
        started = clock()
        with redirect_stdout(StringIO()):
            code = run_here(["sample", *arguments, "-o", str(out), "--resume", "-q"])
        if code:
            raise SystemExit(f"{name}: sampling ended with exit code {code}.")
        spent["seconds"] = (spent["seconds"] + clock() - started).tolist()
        spent["exams"] += count - before
        record.write_text(json.dumps(spent), encoding="utf-8")
    return np.array(spent["seconds"]) / (spent["exams"] or float("nan"))


def count_exams(out: Path) -> int:
    """Exams that a run folder lists."""
    if not (out / "manifest.jsonl").is_file():
        return 0
    return len({record.id for record in read_run(out)})


def volume_features(folder: Path, model: str, extractor: str) -> dict[str, np.ndarray]:
    """Features of whole volumes by sequence, [exams, 1, d], in the order of the ids."""
    images = open_sets({"exams": folder}, sequences=None, template=find_card(model), own_grid=False)["exams"]
    loaded = load_extractor(find_extractor(extractor))
    summary = summarise_set(images, range(len(images)), [loaded], seed=0)
    return {sequence: rows for (sequence, _, view), rows in summary.features.items() if view == VOLUME}


def compare_sets(real: dict[str, np.ndarray], synthetic: dict[str, np.ndarray]) -> dict[str, Any]:
    """KID with its interval, FID and their floors, means over the sequences; floors are of halves, as is `fid_half`."""
    each = [compare_features(real[name], synthetic[name], seed=0, neighbours=False) for name in real]
    # The same seed draws the same exams for every sequence, so their distances belong together.
    subsets = np.mean([subset_distances(real[name][:, 0], synthetic[name][:, 0], seed=0) for name in real], axis=0)
    low, high = np.percentile(subsets, [2.5, 97.5])

    def mean(figure: str, key: str) -> float:
        return float(np.mean([result[figure][key] for result in each]))

    return {
        "kid": mean("kid", "value"), "kid_interval": [float(low), float(high)], "kid_floor": mean("kid", "floor"),
        "fid": mean("fid", "value"), "fid_half": mean("fid", "half"), "fid_floor": mean("fid", "floor"),
    }  # fmt: skip


def fit_line(steps: list[int], seconds: list[float]) -> tuple[float, float, float]:
    """Seconds at no step, seconds per step, and R squared of the straight line through the measurements."""
    slope, start = np.polyfit(steps, seconds, 1)
    residual = np.asarray(seconds) - (start + slope * np.asarray(steps))
    return float(start), float(slope), float(1 - residual.var() / np.var(seconds))


def write_table(rows: list[dict[str, Any]], options: argparse.Namespace, fits: dict[str, str]) -> None:
    """docs/samplers.md."""
    intro = INTRODUCTION.format(
        n=options.n, model=options.model, guidance=options.guidance, extractor=options.extractor,
        machine=describe_machine(), half=options.n // 2, kid=rows[0]["kid_floor"], fid=rows[0]["fid_floor"],
        last=find_card(options.model).sampler.last_timestep,
    )  # fmt: skip
    columns = [*("sampler", "steps", "KID (95 %)", "FID"), *PROMPT_FIGURES, *("FID of halves", "seconds", "processor")]
    lines = [intro, "| " + " | ".join(columns).replace("_", " ") + " |", "|---" * len(columns) + "|"]
    for row in rows:
        prompt = " | ".join(f"{row['prompt'][name]:.3f}" for name in PROMPT_FIGURES)
        low, high = row["kid_interval"]
        name = f"{row['sampler']} (published)" if row["published"] else row["sampler"]
        lines.append(
            f"| {name} | {row['steps']} | {row['kid']:.4g} ({low:.4g} to {high:.4g}) | {row['fid']:.4g} | {prompt} | "
            f"{row['fid_half']:.4g} | {row['seconds']:.3g} | {row['cpu_seconds']:.3g} |"
        )
    ceiling = " | ".join(f"{rows[0]['ceiling'][name]:.3f}" for name in PROMPT_FIGURES)
    lines += [f"| phantoms | | | | {ceiling} | {rows[0]['fid_floor']:.4g} | | |", ""]
    lines += [f"Seconds of the processor for one exam, {name}: {text}." for name, text in fits.items()]
    for machine in dict.fromkeys(row["machine"] for row in rows if row["machine"] != describe_machine()):
        elsewhere = ", ".join(f"{row['sampler']} {row['steps']}" for row in rows if row["machine"] == machine)
        lines += ["", f"Seconds of these rows are of {machine}: {elsewhere}."]
    lines += ["", "![KID and prompt fidelity by number of steps](samplers.png)", ""]
    (DOCS / "samplers.md").write_text("\n".join(lines), encoding="utf-8")


def store_measured(card: Card, rows: list[dict[str, Any]], exams: int) -> list[str]:
    """Puts the figures of the rows that are a preset of the card into its file; the names of those presets."""
    path = card.directory / "card.toml"
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    stored = {row["preset"]: row for row in rows if row["preset"] in card.presets}
    for name, row in stored.items():
        figures = {key: row[key] for key in ("kid", "kid_floor", "fid", "fid_half", "fid_floor")} | row["prompt"]
        rounded = {key: float(f"{value:.3g}") for key, value in figures.items()}
        document["presets"][name]["measured"] = {"exams": exams, **rounded}
    write_card(path, document)
    return list(stored)


def draw_plot(rows: list[dict[str, Any]]) -> None:
    """docs/samplers.png: KID and the lesion's AUC by number of steps, with their 95 % intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    published = next(row for row in rows if row["published"])
    for axes, title, value, interval in zip(
        figure.subplots(1, 2),
        ("KID against the phantoms", "prompt fidelity: AUC of the lesion"),
        (lambda row: row["kid"], lambda row: row["prompt"]["lesion_auc"]),
        (lambda row: row["kid_interval"], lambda row: row["prompt_intervals"]["lesion_auc"]),
        strict=True,
    ):
        for sampler in dict.fromkeys(row["sampler"] for row in rows if not row["published"]):
            own = [row for row in rows if row["sampler"] == sampler and not row["published"]]
            steps, values = [row["steps"] for row in own], [value(row) for row in own]
            bars = np.abs(np.array([interval(row) for row in own]) - np.array(values)[:, None]).T
            axes.errorbar(steps, values, yerr=bars, marker="o", elinewidth=0.7, label=sampler)
        label = f"published, {published['steps']} steps"
        axes.axhline(value(published), color="black", linestyle="--", label=label)
        axes.set(title=title, xlabel="steps", xscale="log")
        axes.set_xticks(sorted({row["steps"] for row in rows if not row["published"]}))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    figure.axes[0].axhspan(*published["kid_interval"], color="black", alpha=0.1, label="its 95 % interval")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    figure.savefig(DOCS / "samplers.png", dpi=120, metadata={"Software": None})


def stored_rows(card: Card, options: argparse.Namespace) -> dict[tuple[str, int], dict[str, Any]]:
    """Rows of the last run by label and steps, where it was about the same weights, guidance and reports."""
    path = RESULTS / "samplers.json"
    if not options.stored or not path.is_file():
        return {}
    details = json.loads(path.read_text(encoding="utf-8"))["details"]
    same = {"n": options.n, "guidance": options.guidance, "weights": weights_of(card)}
    if different := sorted(name for name, value in same.items() if details.get(name) != value):
        raise SystemExit(f"{path} differs in {', '.join(different)}: run without --stored.")
    return {(row["sampler"], row["steps"]): row for row in details["rows"] if row["sampler"] != STUDENT}


def weights_of(card: Card) -> dict[str, str]:
    """Digest of every file of a model's parts."""
    return {file.path: file.sha256 for part in card.parts.values() for file in part.files}


def ways_of(card: Card, options: argparse.Namespace) -> list[Way]:
    """The rows of the table, the published sampler last."""
    model = ("--model", options.model)
    guided = (*model, "--guidance", str(options.guidance))
    ways = [
        Way(name, int(steps), (*guided, "--sampler", name, "--steps", steps))
        for name in options.samplers.split(",")
        for steps in options.steps.split(",")
    ]
    for name, preset in card.presets.items():
        if name != PUBLISHED:
            ways.append(Way(f"preset {name}", preset.sampler.steps, (*model, "--preset", name), name))
    if options.guidance_interval is not None and BALANCED in card.presets:
        interval = ("--preset", BALANCED, "--guidance-interval", options.guidance_interval)
        label = f"preset {BALANCED}, guided at {options.guidance_interval.replace(',', ' to ')}"
        ways.append(Way(label, card.presets[BALANCED].sampler.steps, (*model, *interval)))
    if options.student is not None:
        ways.append(Way(STUDENT, find_card(options.student).sampler.steps, ("--model", options.student)))
    published = card.presets[PUBLISHED].sampler
    fewer = () if options.published_steps is None else ("--steps", str(options.published_steps))
    count = options.published_steps or published.steps
    last = Way(published.name, count, (*model, "--preset", PUBLISHED, *fewer), PUBLISHED, published=True)
    return [*ways, last]


def measure(options: argparse.Namespace, way: Way, phantoms: Path, real: dict[str, np.ndarray]) -> Any:
    """One row of the table; presets and students are sampled as their own cards say."""
    out = options.work / f"{way.label}-{way.steps}-{options.n}".replace("+", "p").replace(",", "").replace(" ", "-")
    prompts = ["--prompt", str(options.work / f"prompts-{options.n}.jsonl"), "--batch-size", str(options.batch_size)]
    seconds, cpu_seconds = sample_timed(f"{way.label}, {way.steps} steps", [*way.arguments, *prompts], out, options.n)
    fidelity = compare_sets(real, volume_features(out, options.model, options.extractor))
    prompt = evaluate_prompt(out, phantoms)
    row = {
        "sampler": way.label, "steps": way.steps, "published": way.published, "preset": way.preset,
        "seconds": float(seconds), "cpu_seconds": float(cpu_seconds), "machine": describe_machine(),
        **fidelity,
        "prompt": {name: prompt["synthetic"]["figures"][name]["value"] for name in PROMPT_FIGURES},
        "prompt_intervals": {name: prompt["synthetic"]["figures"][name]["interval"] for name in PROMPT_FIGURES},
        "ceiling": {name: prompt["phantoms"]["figures"][name]["value"] for name in PROMPT_FIGURES},
    }  # fmt: skip
    print(
        f"{way.label}, {way.steps} steps: KID {row['kid']:.4g}, FID {row['fid']:.4g}, {seconds:.3g} s an exam, "
        f"{cpu_seconds:.3g} of the processor",
        flush=True,
    )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ccella-pp/phantom")
    parser.add_argument("--work", type=Path, default=Path("runs/samplers"))
    parser.add_argument("-n", type=int, default=200, help="reports, 10 or more")
    parser.add_argument("--samplers", default="ddim,dpmsolver++,unipc")
    parser.add_argument("--steps", default="5,10,20,50", help="numbers of steps")
    parser.add_argument("--student", help="a student of the model, for a row of its own")
    parser.add_argument("--published-steps", type=int, help="fewer steps of the published sampler: a trial")
    parser.add_argument("--guidance", type=float, help="of the samplers' rows; default: the model's")
    parser.add_argument("--guidance-interval", help="LEAST,GREATEST: a row for the balanced preset guided there alone")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--extractor", default="pyramid")
    parser.add_argument("--write-card", action="store_true", help="put the figures of presets into the model's card")
    parser.add_argument("--stored", action="store_true", help="measure only rows that the stored results lack")
    parser.add_argument("--no-docs", action="store_true", help="leave docs/ and bench/results/ alone: a trial")
    options = parser.parse_args()
    # A trial with few exams leaves resamples without spread, and each of them would warn.
    warnings.simplefilter("ignore")
    card = find_card(options.model)
    if options.guidance is None:
        options.guidance = card.sampler.guidance_scale
    if options.write_card and options.published_steps is not None:
        parser.error("--write-card goes with all steps of the published sampler")
    phantoms = options.work / f"phantoms-{options.n}"
    run("phantom", "-n", options.n, "--seed", TEST_SEED, "--prevalence", 0.5, "-o", phantoms, "-q")
    write_prompts(phantoms, options.work / f"prompts-{options.n}.jsonl")
    real = volume_features(phantoms, options.model, options.extractor)
    stored = stored_rows(card, options)
    ways = ways_of(card, options)
    rows = [stored.get((way.label, way.steps)) or measure(options, way, phantoms, real) for way in ways]
    fits = {}
    for name in options.samplers.split(","):
        own = [row for row in rows if row["sampler"] == name]
        if len(own) > 2:
            start, slope, r2 = fit_line([row["steps"] for row in own], [row["cpu_seconds"] for row in own])
            fits[name] = f"{start:.3g} + {slope:.3g} per step, R squared {r2:.4f}"
    lines: list[tuple[str, object]] = []
    for row in rows:
        figures = f"KID {row['kid']:.4g}, FID {row['fid']:.4g}, lesion AUC {row['prompt']['lesion_auc']:.3f}"
        seconds = f"{row['seconds']:.3g} s, {row['cpu_seconds']:.3g} s of the processor"
        lines.append((f"{row['sampler']}, {row['steps']} steps", f"{figures}, {seconds}"))
    lines += [(f"seconds of the processor for an exam, {name}", text) for name, text in fits.items()]
    if options.no_docs:
        print("\n".join(f"{label}: {value}" for label, value in lines))
        return
    if options.write_card:
        print(f"Figures put into the card of {card.id}: {', '.join(store_measured(card, rows, options.n))}.")
    write_table(rows, options, fits)
    draw_plot(rows)
    about = {"n": options.n, "model": options.model, "guidance": options.guidance, "weights": weights_of(card)}
    report("samplers", lines, about | {"rows": rows})


if __name__ == "__main__":
    main()
