"""Run the soak tests again and again, in random order with printed seeds, for a number of minutes."""

import argparse
import random
import subprocess
import sys
import time


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, help="seed of the first round; the next ones count up")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**31)
    end = time.monotonic() + 60 * options.minutes
    rounds = 0
    while rounds == 0 or time.monotonic() < end:
        print(f"soak round {rounds + 1}, seed {seed}", flush=True)
        command = [sys.executable, "-m", "pytest", "-q", "-m", "soak", f"--randomly-seed={seed}"]
        done = subprocess.run([*command, "tests"], check=False)
        if done.returncode != 0:
            print(f"soak failed in round {rounds + 1}; repeat with --seed {seed}", flush=True)
            return done.returncode
        rounds, seed = rounds + 1, seed + 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
