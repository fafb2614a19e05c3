import signal
from pathlib import Path

import torch
from jaxtyping import install_import_hook

# Samplers draw the same bits for any thread count; one thread is what a shared machine runs
# fastest.
torch.set_num_threads(1)

# A shell that starts a run in the background has it, and all that it starts, ignore Ctrl-C, which
# tests press.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def with_shapes() -> list[str]:
    """The modules whose signatures name shapes: those that import jaxtyping."""
    root = Path(__file__).parents[1]
    homes = {"qsample": "qsample", "models": "qsample.models", "annealers": "qsample.annealers"}
    modules = []
    for folder, package in homes.items():
        for path in sorted((root / folder).rglob("*.py")):
            inner = path.relative_to(root / folder).with_suffix("").parts
            through_link = folder == "qsample" and inner[0] in ("models", "annealers")
            if not through_link and "from jaxtyping import" in path.read_text():
                modules.append(".".join([package, *inner]))
    return modules


# Shapes are checked where they are named; elsewhere the check would cost two thirds of the tests'
# time.
install_import_hook(with_shapes(), "beartype.beartype")
