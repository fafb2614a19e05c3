"""What an installed wheel must do where nothing else of this project is.

    python .ci/wheel_check.py    # run by `make wheel-test`, and by CI for each wheel

It imports the package, asks the compiled kernel for draws, compares them with the exact law, runs
the command line and then the twenty lines of the README.
"""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch

import qsample as qs
from qsample.annealers import Exact, Gibbs, _engine

CHECKOUT = Path(__file__).resolve().parents[1]


def check_origin() -> None:
    """The package and its compiled kernel come from an environment, not from the checkout."""
    for module in (qs, _engine):
        place = Path(str(module.__file__)).resolve()
        assert "site-packages" in place.parts, f"{module.__name__} was imported from {place}"
        assert CHECKOUT / "qsample" not in place.parents, (
            f"{module.__name__} is the checkout's: {place}"
        )
    print(f"qsample-torch {version('qsample-torch')} in {Path(str(qs.__file__)).parent}")


def check_draws() -> None:
    """Gibbs reads of a small glass follow the exact law; the same seed gives the same reads."""
    edges = [(i, (i + 1) % 8) for i in range(8)]
    generator = torch.Generator().manual_seed(0)
    fields = 0.5 * torch.randn(8, generator=generator)
    couplings = 0.5 * torch.randn(8, generator=generator)
    problem = qs.Ising.from_edges(fields, edges, couplings)
    samples = Gibbs(sweeps=50).sample(problem, 20_000, generator=generator.manual_seed(1))
    exact = Exact().sample(problem, 20_000, generator=generator.manual_seed(2))
    # The difference of two means of 20,000 spins has a standard error of at most 0.01.
    difference = (samples.mean() - exact.mean()).abs().max()
    assert difference < 0.05, f"Gibbs and exact means differ by {difference:.3f}"
    again = Gibbs(sweeps=50).sample(problem, 20_000, generator=generator.manual_seed(1))
    assert torch.equal(samples.spins, again.spins)
    print(f"Gibbs means are the exact ones within {difference:.3f}")


def check_command() -> None:
    """The command line starts and knows its version, its samplers and its recipes."""
    command = Path(sys.executable).with_name("qsample")
    for arguments in (["--version"], ["samplers"], ["recipes", "digits-rbm-16"]):
        done = subprocess.run([command, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        print(done.stdout.splitlines()[0])


def check_readme() -> None:
    """The README's twenty lines, whose data come with scikit-learn (extra `experiments`)."""
    (code,) = re.findall(r"```python\n(.*?)```", (CHECKOUT / "README.md").read_text(), re.DOTALL)
    torch.manual_seed(0)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


if __name__ == "__main__":
    for check in (check_origin, check_draws, check_command, check_readme):
        check()
    print("the installed wheel works")
