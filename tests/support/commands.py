"""The command line as its tests call it."""

from pathlib import Path

from qsample.cli import main

ROOT = Path(__file__).parents[2]
# The options of a run of a second.
TINY = [
    *["--updates", "6"],
    *["--batch", "10"],
    *["--chains", "16"],
    *["--evaluate-every", "2"],
    *["--checkpoint-every", "2"],
    *["--sweeps", "1"],
]
DATA = ["--data", "bars-and-stripes-3x3", "--hidden", "3"]


def train(out, *options):
    """`qsample train` of a tiny run in the folder `out`, with more options."""
    main(["train", "--out", str(out), *DATA, *TINY, *options])
