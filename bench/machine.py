"""What every benchmark prints and stores: the machine, the versions, the figures."""

import json
import os
import platform
import resource
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def describe_machine() -> str:
    """Processor, cores this process may use, memory and operating system in one line."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
        total_kib = int(Path("/proc/meminfo").read_text(encoding="utf-8").split()[1])
        memory = f"{total_kib / 2**20:.0f} GiB"
    except (OSError, StopIteration):
        memory = "memory unknown"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{processor}, {cores} cores, {memory}, {system}"


def peak_memory_gib(children: bool = False) -> float:
    """Largest resident set so far of this process, or of its finished children."""
    who = resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF
    return resource.getrusage(who).ru_maxrss / 2**20


def report(name: str, rows: list[tuple[str, Any]], details: Any = None) -> None:
    """Prints a table and stores it as bench/results/<name>.json with the machine's name."""
    machine = describe_machine()
    width = max(len(label) for label, _ in rows)
    print(f"{name}\n{machine}")
    for label, value in rows:
        print(f"  {label:<{width}}  {value:.4g}" if isinstance(value, float) else f"  {label:<{width}}  {value}")
    RESULTS.mkdir(exist_ok=True)
    document = {"name": name, "machine": machine, "figures": dict(rows), "details": details}
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
