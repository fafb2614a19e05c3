"""docs/guides/qpu.md is a test: its blocks run in order against the loopback processor."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import qsample as qs
from qsample.annealers import DWave

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "guides" / "qpu.md").read_text()


@pytest.mark.long
def test_blocks_run(sapi, tmp_path):
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    trained, beta, verdict, spent, refusal, served = done.stdout.strip().splitlines()
    likelihood, seconds = map(float, trained.split())
    assert -9 * 0.694 < likelihood < -2.64 and seconds > 5 * 0.03
    found = re.fullmatch(r"beta (\S+) ± (\S+), the chip's (\S+)", beta)
    assert found and abs(float(found[1]) - 1) < 5 * float(found[2])
    assert abs(float(found[3]) / 6.35 - 1) < 5 * float(found[2])
    assert "effective beta " in verdict
    assert 0 < float(spent.removesuffix(" s")) < 0.2
    assert re.search(
        r"s of QPU access time are needed, .* of budget=0.2 are left \(ledger ledger.jsonl\)",
        refusal,
    )
    assert served == "SimulatedAnnealing" and "SimulatedAnnealing serves instead" in done.stderr
    assert {"ledger.jsonl", "reads.jsonl"} == {path.name for path in tmp_path.iterdir()}
    for path in tmp_path.iterdir():
        assert sapi.token not in path.read_text()


def test_table_of_info_is_what_the_code_gives(sapi):
    named = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE))))
    # Weak couplings and many reads: ten cold ones may all be local minima, which no beta explains,
    # and are refused.
    problem = qs.Ising.from_edges(torch.zeros(3), [(0, 1), (1, 2)], torch.full((2,), 0.2))
    with DWave() as device:
        given = set(device.sample(problem, 200).info) | set(
            device.sample(problem.scale(0.0), 10).info
        )
    with DWave(reweight=True) as device:
        given |= set(device.sample(problem, 200).info)
    assert given <= named and named - given == {"fallback"}
