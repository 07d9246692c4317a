"""Durability: indexing killed at 30 random moments, each store resumed and compared.

    python benchmarks/faults.py

A tiny random model, 2,000 items. Every store that comes to its end must hold every item once and
answer like one that was never disturbed. Writes benchmarks/results/faults.json.
"""

import sys
import tempfile
from pathlib import Path

from common import save

sys.path.append(str(Path(__file__).parents[1]))

from tests.command.test_faults import kill_indexing

ITEMS, KILLS = 2000, 30


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = kill_indexing(Path(folder), ITEMS, KILLS)
    print(
        f"{KILLS} kills over {ITEMS} items, {found['stores finished']} stores finished: "
        "every item once, searches equal to an undisturbed run"
    )
    save("faults", found)


if __name__ == "__main__":
    main()
