"""Prompt fidelity over unseen phantom reports: does the generated exam show what the report says?

Makes the phantoms of 200 reports that no training has seen, samples an exam for each report with the model, and reads
both with the same reader. The phantoms' figures are the ceiling. Also prints the class head's AUC.

    python bench/prompt_fidelity.py --training data/phantom
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from machine import report
from reader import load_or_train_reader, look, truth_of
from sklearn.metrics import roc_auc_score

from ccella.imaging.exams import find_exams, load_exam
from ccella.metrics.prompt_fidelity import Reading, Truth, bootstrap_intervals, compare_readings
from ccella.zoo.card import Card
from ccella.zoo.record import group_items
from ccella.zoo.registry import find_card
from ccella.zoo.runs import read_run

# Another seed than any training set: exams are a function of (seed, index).
TEST_SEED = 20_000


def run(*arguments: object) -> None:
    """A ccella command as a user runs it; ends the benchmark when it fails."""
    command = [sys.executable, "-m", "ccella.cli.main", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def read_folder(folder: Path, card: Card, reader: object) -> dict[str, Reading]:
    """Readings of every exam of a folder, by id."""
    spec = card.image
    assert spec.spacing_mm is not None
    readings = {}
    for exam in find_exams(folder, [channel.name for channel in spec.channels]):
        readings[exam.id] = look(reader, load_exam(exam, spec).array, spec.spacing_mm)
    return readings


def write_prompts(phantoms: Path, path: Path) -> None:
    """The reports of a phantom folder as a prompt manifest."""
    files = sorted((phantoms / "reports").glob("*.txt"))
    lines = [json.dumps({"id": file.stem, "prompt": file.read_text(encoding="utf-8")}) for file in files]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ccella-pp/phantom")
    parser.add_argument("--training", type=Path, required=True, help="phantoms the reader is trained on")
    parser.add_argument("--work", type=Path, default=Path("runs/prompt-fidelity"))
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--sample-options", default="", help="passed on to ccella sample")
    parser.add_argument("--name", default="prompt_fidelity")
    options = parser.parse_args()
    card = find_card(options.model)
    phantoms, samples = options.work / f"phantoms-{options.n}", options.work / options.name
    run("phantom", "-n", options.n, "--seed", TEST_SEED, "--prevalence", 0.5, "-o", phantoms, "-q")
    prompts = options.work / "prompts.jsonl"
    write_prompts(phantoms, prompts)
    extra = options.sample_options.split()
    run("sample", "--prompt", prompts, "--model", options.model, "-o", samples, "-q", "--overwrite", *extra)
    reader = load_or_train_reader(options.work / "reader.safetensors", options.training, card.image, 600)
    ids = sorted(file.stem for file in (phantoms / "findings").glob("*.json"))
    findings = [json.loads((phantoms / "findings" / f"{id}.json").read_text(encoding="utf-8")) for id in ids]
    truths = [Truth(*truth_of(item)) for item in findings]
    rows: list[tuple[str, object]] = []
    details = {}
    for label, folder in (("phantoms (ceiling)", phantoms), ("generated", samples)):
        readings = read_folder(folder, card, reader)
        ordered = [readings[id] for id in ids]
        figures, bounds = compare_readings(ordered, truths), bootstrap_intervals(ordered, truths)
        for name, value in figures.items():
            text = f"{value:.3f}" + (f"  [{bounds[name][0]:.3f}, {bounds[name][1]:.3f}]" if name in bounds else "")
            rows.append((f"{label}: {name}", text))
        details[label] = {"figures": figures, "intervals": bounds, "readings": [dataclasses.asdict(r) for r in ordered]}
    probability = {group[0].id: group[0].data["class_probability"] for group in group_items(read_run(samples))}
    auc = float(roc_auc_score([truth.positive for truth in truths], [probability[id] for id in ids]))
    rows.append(("class head AUC", f"{auc:.3f}"))
    details["class_head_auc"] = auc
    details["ids"] = ids
    report(options.name, rows, details if np.isfinite(auc) else None)


if __name__ == "__main__":
    main()
