import re
import subprocess
import sys
from pathlib import Path

import pytest

from qsample.annealers.registry import CATALOGUE

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def example() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    return code


def test_example_is_short():
    lines = [line for line in example().splitlines() if line.strip()]
    assert len(lines) <= 20
    assert "diagnose" in lines[-1]


@pytest.mark.slow
def test_example_runs(tmp_path):
    """In a process of its own, from another folder; its last line is the diagnosis."""
    done = subprocess.run(
        [sys.executable, "-c", "import torch; torch.manual_seed(0)\n" + example()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    likelihood, verdict = done.stdout.strip().splitlines()
    assert -20 < float(likelihood.split()[0]) < -17.5, (
        "an exact test log-likelihood far from any RBM of this size"
    )
    assert re.search(r"effective beta \d\.\d+ ± 0\.\d+: consistent with 1; mean energy", verdict), (
        verdict
    )


def test_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^ {4}|`)make (\w[\w-]*)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_length():
    assert len(README.splitlines()) <= 120


def test_table_states_the_tags_the_samplers_give(sapi):
    """The tags are those that the code returns; `DWave()` finds the loopback processor."""
    import torch

    import qsample as qs
    from qsample import annealers

    rows = re.findall(r"^\| `(\w+)\(.*?\)` \| (\w+) \|", README, re.MULTILINE)
    assert {name for name, _ in rows} == set(annealers.__all__) - {"AsDimod"}
    problem = qs.Ising.from_edges(torch.zeros(3), [(0, 1), (1, 2)], torch.ones(2))
    made = {
        type(sampler).__name__: sampler
        for sampler in (entry.make(2) for entry in CATALOGUE.values())
    }
    made["FromCallable"] = annealers.FromCallable(lambda problem, num, seed: torch.ones(num, 3))
    for name, tag in rows:
        if name != "DimodAnnealer":
            assert made[name].sample(problem, 2).exactness.value == tag
    made["DWave"].close()  # pyright: ignore[reportAttributeAccessIssue]
