"""Thousands of inputs that no one meant to give: never a traceback, a write outside the output folder, or a hang.

    python bench/fuzz.py -n 10000

Prompts, ids, manifests, cards, headers of volumes and option combinations, each run through the whole command line in
this process. `--show` prints the inputs that broke a rule.
"""

import argparse
import os
import resource
import sys
import tempfile
from collections import Counter
from pathlib import Path

from machine import report

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
# Share of the inputs of each kind.
SHARES = {"prompts": 0.2, "ids": 0.1, "manifests": 0.25, "cards": 0.15, "volumes": 0.15, "options": 0.15}
# What a process of this program may map. An input of some kilobytes that asks for more has broken a rule.
ADDRESS_SPACE = 12 * 2**30


def fuzz(kind: str, count: int, seed: int, sandbox: "object") -> tuple[Counter, list[tuple[str, str]]]:
    """Exit codes, and what broke a rule: the fault and the case."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from support.fuzz_cases import KINDS
    from support.fuzzing import Hang, find_fault

    codes: Counter = Counter()
    faults = []

    @seeded(seed)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(KINDS[kind]())
    def check(case: "object") -> None:
        try:
            outcome = sandbox.run(case)
            codes[outcome.code] += 1
            fault = find_fault(outcome)
        except Hang:
            fault = "hang"
        if fault is not None:
            faults.append((fault, repr(case)))

    check()
    return codes, faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", "--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=tuple(SHARES), help="only this kind")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print N faults of each kind")
    options = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    import conftest
    from support.fuzzing import Sandbox
    from transformers.utils import logging

    logging.disable_progress_bar()
    shares = {options.kind: 1.0} if options.kind else SHARES
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        sandbox = Sandbox(
            base / "box", conftest.write_tiny_model(base / "tiny"), conftest.write_tiny_exams(base / "exams")
        )
        rows, total, broken = [], 0, Counter()
        for kind, share in shares.items():
            codes, faults = fuzz(kind, round(options.count * share), options.seed, sandbox)
            told = ", ".join(f"{count} x exit {code}" for code, count in sorted(codes.items()))
            rows.append((kind, f"{sum(codes.values())} inputs, {len(faults)} faults ({told})"))
            total += sum(codes.values())
            broken.update(fault for fault, _ in faults)
            for fault, case in faults[: options.show]:
                print(f"{kind}: {fault[:300]}\n    {case[:700]}", file=sys.stderr)
    rows += [("inputs", total), ("faults", broken.total())]
    report("fuzz", rows, details=dict(broken.most_common(20)))
    if broken:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
