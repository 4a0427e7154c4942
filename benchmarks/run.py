"""Runs the benchmarks one after another, each in a process of its own, and compares their ratios with recorded bars.

    python benchmarks/run.py cpu|gpu [--only training_step] [--output outputs/bench]
    python benchmarks/run.py check [--output outputs/bench]

Each writes `<output>/<name>.json`. `check` fails where a ratio is below its bar in `bars.json` by more than its
interval; only ratios are compared, which do not hang on the machine as seconds do.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from measure import table

HERE = Path(__file__).parent
STEP = "training_step.py"
BENCHMARKS = {
    "cpu": {
        "training_step": [
            STEP,
            *("--device=cpu", "--size=small", "--seconds=900", "--stages", "eager:full,balanced,low:2"),
        ],
        "kernels": ["kernels.py"],
        "loader": ["loader.py", "--clips=20000"],
        "latents": ["latents.py"],
        "scaling": ["scaling.py"],
    },
    "gpu": {
        "training_step_gpu": [STEP, "--device=cuda", "--size=full", "--seconds=540"],
    },
}
"""Name of what is written → script and arguments."""


def run(kind: str, only: str | None, output: Path) -> list[str]:
    """Run the benchmarks of a kind; the names of those that failed."""
    failed = []
    for name, (script, *arguments) in BENCHMARKS[kind].items():
        if only in (None, name):
            print(f"── {name}", flush=True)
            command = [sys.executable, str(HERE / script), *arguments, f"--name={name}", f"--output={output}"]
            if subprocess.run(command, check=False).returncode:
                failed.append(name)
    return failed


def below_bars(output: Path) -> list[str]:
    """Prints every ratio that has a bar; those that are below it, or were not measured."""
    bars = json.loads((HERE / "bars.json").read_text())
    rows, failed = [], []
    for benchmark, of_benchmark in bars.items():
        path = output / f"{benchmark}.json"
        ratios = json.loads(path.read_text()).get("ratios", {}) if path.is_file() else {}
        for name, bar in of_benchmark.items():
            found = ratios.get(name)
            good = found is not None and found["high"] >= bar
            rows.append({"benchmark": benchmark, "ratio": name, "bar": bar} | (found or {}) | {"good": good})
            if not good:
                failed.append(f"{benchmark}: {name}")
    print(table(rows))
    return failed


def main() -> None:
    """Run or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*BENCHMARKS, "check"])
    parser.add_argument("--only", help="name of one benchmark")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench"))
    options = parser.parse_args()
    checking = options.what == "check"
    failed = below_bars(options.output) if checking else run(options.what, options.only, options.output)
    if failed:
        sys.exit(f"failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
