"""Prompt fidelity over unseen phantom reports: does the generated exam show what the report says?

Makes the phantoms of 200 reports that no training has seen, samples an exam for each report with the model, and reads
both with the same reader. The phantoms' figures are the ceiling. Also prints the class head's AUC.

    python bench/prompt_fidelity.py
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from machine import report

from ccella.diffusion.noise import seed_from_id
from ccella.evaluation.prompts import evaluate_prompt

# Another seed than any training set: exams are a function of (seed, index).
TEST_SEED = 20_000


def run(*arguments: object) -> None:
    """A ccella command as a user runs it; ends the benchmark when it fails."""
    command = [sys.executable, "-m", "ccella.cli.main", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def write_prompts(phantoms: Path, path: Path) -> None:
    """The reports of a phantom folder as a prompt manifest."""
    lines = []
    for index, file in enumerate(sorted((phantoms / "reports").glob("*.txt"))):
        # The noise does not depend on what phantoms are called: these names are of when the stored figures were made.
        seed = seed_from_id(f"phantom1-{index:05d}_s{TEST_SEED}")
        lines.append(json.dumps({"id": file.stem, "prompt": file.read_text(encoding="utf-8"), "seed": seed}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ccella-pp/phantom")
    parser.add_argument("--work", type=Path, default=Path("runs/prompt-fidelity"))
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--sample-options", default="", help="passed on to ccella sample")
    parser.add_argument("--name", default="prompt_fidelity")
    options = parser.parse_args()
    phantoms, samples = options.work / f"phantoms-{options.n}", options.work / options.name
    run("phantom", "-n", options.n, "--seed", TEST_SEED, "--prevalence", 0.5, "-o", phantoms, "-q")
    prompts = options.work / "prompts.jsonl"
    write_prompts(phantoms, prompts)
    extra = options.sample_options.split()
    run("sample", "--prompt", prompts, "--model", options.model, "-o", samples, "-q", "--overwrite", *extra)
    document = evaluate_prompt(samples, phantoms)
    rows: list[tuple[str, object]] = [("exams", document["exams"]), ("positives", document["positives"])]
    for title, label in (("phantoms (ceiling)", "phantoms"), ("generated", "synthetic")):
        for name, figure in document[label]["figures"].items():
            low, high = figure["interval"]
            rows.append((f"{title}: {name}", f"{figure['value']:.3f}  [{low:.3f}, {high:.3f}]"))
        for place in document[label]["places"]:
            low, high = place["zone_read"]["interval"]
            name = f"zone_accuracy, {place['lesions']} lesions in {place['zone']} {place['sector']}"
            rows.append((f"{title}: {name}", f"{place['zone_read']['value']:.3f}  [{low:.3f}, {high:.3f}]"))
    if document["class_head_auc"] is not None:
        rows.append(("class head AUC", f"{document['class_head_auc']:.3f}"))
    report(options.name, rows, document)


if __name__ == "__main__":
    main()
