"""Puts the stored results of the benchmarks into README.md, between its markers.

Of benchmarks that print many rows README has the ones that sum them up; docs/figures.md has all rows.

python bench/readme.py
"""

import json
from pathlib import Path

from machine import RESULTS

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
ALL = ROOT / "docs" / "figures.md"
INTRODUCTION = "# Figures\n\nEvery row that a command under `bench/` printed; made by `python bench/readme.py`.\n\n"
# Rows that stand in README, by how they begin, of benchmarks with too many for it.
SUMMARIES = {
    "faults": ("faults", "lost"),
    "interval_coverage": ("interval over trainings",),
    "samplers": ("preset", "student", "ddpm"),
    "prompt_fidelity_interval": ("generated",),
    "prompt_fidelity_student": ("exams", "generated", "class head"),
    "study": ("runs", "trainings", "test exams", "positives"),
    "metrics_agreement": ("FID against", "FID by", "KID", "FID of one", "AUC", "AP", "DeLong", "95 % interval of"),
}
START, END = "<!-- figures -->\n", "<!-- end of figures -->"
LETTERS = "ABCDEFGH"
COMMANDS = {
    "command_time": "python bench/command_time.py",
    "autoencoder": "python bench/autoencoder.py --real EXAMS",
    "prompt_fidelity": "python bench/prompt_fidelity.py",
    "prompt_fidelity_student": "python bench/prompt_fidelity.py --model STUDENT --name prompt_fidelity_student",
    "prompt_fidelity_interval": "python bench/prompt_fidelity.py --name prompt_fidelity_interval "
    '--sample-options "--guidance-interval 400,999"',
    "reproducibility": "python bench/reproducibility.py",
    "full_size": "python bench/full_size.py",
    "encode": "python bench/encode.py",
    "resume_exact": "python bench/resume_exact.py",
    "ddp_curve": "python bench/ddp_curve.py --fsdp",
    "train_step": "python bench/train_step.py",
    "metrics_agreement": "python bench/metrics_agreement.py",
    "interval_coverage": "python bench/interval_coverage.py",
    "evaluate_images": "python bench/evaluate_images.py --sizes 100 400",
    "memorisation": "python bench/memorisation.py --scale 4000",
    "t2w_model": "python bench/t2w_model.py runs/study-phantom-short",
    "study": "python bench/study.py docs/study/study.toml -o runs/study-phantom-short",
    "paper_algorithm": "python bench/paper_algorithm.py",
    "paper_algorithm_fast": "python bench/paper_algorithm.py --preset fast",
    "paper_algorithm_student": "python bench/paper_algorithm.py --model STUDENT",
    "compare_recipes": "python bench/compare_recipes.py --channels 32 64 64 --steps 500 --sampling-steps 25 "
    "--recipes published v-prediction bundled --latents LATENTS --masks MASKS",
    "samplers": "python bench/samplers.py -n 32 --guidance-interval 400,999 --student STUDENT",
    "decode": "python bench/decode.py",
    "decode_memory": "python bench/decode_memory.py",
    "unet_step": "python bench/unet_step.py",
    "onnx_runtime": "python bench/onnx_runtime.py",
    "step_options": "python bench/step_options.py",
    "voxels": "python bench/voxels.py",
    "faults": "python bench/faults.py",
    "fuzz": "python bench/fuzz.py",
    "manifest_run": "python bench/manifest_run.py",
}
GOALS = {
    "ccella --help": "0.3 s",
    "ccella zoo list": "0.3 s",
    "ccella doctor": "5 s",
    "ccella sample, one report": "20 s and 3 GB",
    "ccella phantom, 100 exams of 96x96x32": "60 s",
    "generated: lesion_auc": "0.90",
    "generated: side_accuracy": "0.90",
    "generated: zone_accuracy": "0.80",
    "class head AUC": "0.95",
    "ratio to the paper's algorithm, one exam at a time": "30x",
    "ratio to the paper's algorithm, batches of 4": "30x",
    "100 + 100 phantoms, 3 sequences, with report": "120 s and 4 GB",
    "processor time per exam, 400 against 100": "1, linear",
    "found by any sequence": "all",
    "independent phantoms flagged by any": "0",
    "U-Net step, guided (batch of 2): ONNX Runtime / torch": "1, or the default stays torch, as it does",
    "decode of one sequence: ONNX Runtime / torch": "1, or the default stays torch, as it does",
    "t2w PSNR": "32 dB",
    "hbv PSNR": "32 dB",
    "adc PSNR": "32 dB",
    "decode, ccella fp32": "0.72 of MONAI's, difference 1e-4",
    "decode, ccella bf16": "0.40 of MONAI's, 45 dB",
    "decode, ccella fp32, slabs": "half of the memory",
    "U-Net step, ccella fp32": "0.9 of MONAI's",
    "U-Net step, ccella bf16": "0.5 of MONAI's",
    "ccella fp32": "0.9 of plain fp32",
    "ccella bf16, channels last": "0.5 of plain fp32",
}
# Goals of one benchmark's rows that begin so.
OWN_GOALS = {"paper_algorithm_student": {"ratio to": "100x"}}
# Goals of figures whose label begins so.
GROUP_GOALS = {
    "FID of one distribution": "5 %",
    "FID": "1e-6",
    "KID": "1e-6",
    "95 % interval of": "95 ± 2 %",
}


def find_goal(benchmark: str, label: str) -> str:
    """The goal of a figure, if it has one."""
    own = (goal for start, goal in OWN_GOALS.get(benchmark, {}).items() if label.startswith(start))
    groups = (goal for start, goal in GROUP_GOALS.items() if label.startswith(start))
    return next(own, None) or GOALS.get(label) or next(groups, "")


def show(value: object) -> str:
    """A figure as the benchmarks print it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(whole: bool) -> str:
    """The results as a Markdown table, all rows or README's, with the machines they came from."""
    lines, machines = ["| figure | measured | goal |", "|---|---|---|"], list[str]()
    for name, command in COMMANDS.items():
        path = RESULTS / f"{name}.json"
        if not path.is_file():
            continue
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["machine"] not in machines:
            machines.append(result["machine"])
        lines.append(f"| **`{command}`** on machine {LETTERS[machines.index(result['machine'])]} | | |")
        chosen = ("",) if whole else SUMMARIES.get(name, ("",))
        lines += [
            f"| {label} | {show(value)} | {find_goal(name, label)} |"
            for label, value in result["figures"].items()
            if label.startswith(chosen)
        ]
    return "\n".join(
        [
            *lines,
            "",
            *(f"- Machine {letter}: {machine}" for letter, machine in zip(LETTERS, machines, strict=False)),
            "",
        ]
    )


def main() -> None:
    """Writes both files."""
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(START)
    after = rest.split(END)[1]
    README.write_text(before + START + "\n" + table(whole=False) + "\n" + END + after, encoding="utf-8")
    ALL.write_text(INTRODUCTION + table(whole=True), encoding="utf-8")


if __name__ == "__main__":
    main()
