"""Run the soak tests, file by file in random order with printed seeds, for a number of minutes; then begin again.

A file that has begun is run to its end. Files that did not get their turn are named.
"""

import argparse
import random
import subprocess
import sys
import time

PYTEST = [sys.executable, "-m", "pytest", "-q", "-m", "soak"]

LONG = {"tests/soak/test_experiment.py": 12, "tests/soak/test_demo.py": 12}
"""Files of a single thing that takes so many minutes; a shorter soak leaves them out."""


def files() -> list[str]:
    """Files that hold soak tests."""
    told = subprocess.run([*PYTEST, "--collect-only", "tests"], check=False, capture_output=True, text=True)
    if told.returncode != 0:
        raise SystemExit(told.stdout + told.stderr)
    return sorted({line.split("::")[0] for line in told.stdout.splitlines() if "::" in line})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, help="seed of the first round; the next ones count up")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**31)
    end, every = time.monotonic() + 60 * options.minutes, files()
    all_files = [file for file in every if LONG.get(file, 0) <= options.minutes]
    waiting, order = set(every), list[str]()
    while True:
        if not order:
            order = random.Random(seed).sample(all_files, len(all_files))
            print(f"a soak round of {len(order)} files, seed {seed}", flush=True)
        file = order.pop()
        print(f"soak: {file}", flush=True)
        done = subprocess.run([*PYTEST, f"--randomly-seed={seed}", file], check=False)
        if done.returncode != 0:
            print(f"soak failed in {file}; repeat with pytest -m soak --randomly-seed={seed} {file}", flush=True)
            return done.returncode
        waiting.discard(file)
        seed += not order
        if time.monotonic() > end:
            print(f"soak: time is over; not run: {', '.join(sorted(waiting)) or 'none'}", flush=True)
            return 0


if __name__ == "__main__":
    sys.exit(main())
