"""A heuristic sampler followed by a valid kernel: whose law, whose tag, whose notes."""

from dataclasses import replace

import pytest
import torch

from qsample import Exactness, Graph, Ising, Samples
from qsample.annealers import Corrected, Exact, Gibbs, Neal, SimulatedAnnealing
from qsample.sampling.sampler import Stateful

PROBLEM = Ising(
    Graph.complete(4), torch.tensor([0.1, -0.2, 0.3, 0.4]), torch.ones(4, 4) - torch.eye(4)
)


@pytest.mark.parametrize(
    ("sampler", "kernel", "tag"),
    [
        (Neal(sweeps=2), Gibbs(sweeps=1), Exactness.ASYMPTOTIC),
        (Exact(), Gibbs(sweeps=1), Exactness.ASYMPTOTIC),  # raised at most so far
        # nothing hides a kernel at another temperature
        (Exact(), Gibbs(betas=[0.5]), Exactness.HEURISTIC),
        (Corrected(Neal(sweeps=2)), Gibbs(sweeps=1), Exactness.ASYMPTOTIC),
    ],
)
def test_the_tag_is_the_kernels(sampler, kernel, tag):
    composite = Corrected(sampler, kernel)
    assert composite.sample(PROBLEM, 3).exactness is tag
    assert composite.warm_start and composite.reversible is kernel.reversible
    assert Corrected(sampler, Gibbs(scan="palindromic")).reversible


def test_a_kernel_must_continue_chains():
    with pytest.raises(
        ValueError, match=r"SimulatedAnnealing cannot continue chains.*Gibbs\(sweeps=\.\.\.\)"
    ):
        Corrected(Neal(), SimulatedAnnealing())


class Notes:
    """A sampler that reports and carries; as a kernel it counts its calls in its carry."""

    reversible = False

    def __init__(self, warm_start):
        self.warm_start, self.initials = warm_start, []

    def sample(self, problem, num, *, initial=None, generator=None):
        self.initials.append(initial)
        calls = 0 if initial is None or initial.carry is None else int(initial.carry["calls"])
        spins = (
            torch.ones(num, problem.num_spins, dtype=torch.int8)
            if initial is None
            else initial.spins.clone()
        )
        weight = torch.arange(float(num)) if initial is None else initial.log_weight
        info = {"by": "kernel" if self.warm_start else "sampler"}
        carry = (
            {"calls": torch.tensor(calls + 1)} if self.warm_start else {"calls": torch.tensor(-100)}
        )
        return Samples(spins, problem.energy(spins), weight, Exactness.ASYMPTOTIC, info, carry)


def test_chains_go_on_under_the_kernel_alone_with_its_carry():
    sampler, kernel = Notes(False), Notes(True)
    composite, samples = Corrected(sampler, kernel), None
    for step in range(4):
        samples = composite.sample(PROBLEM, 3, initial=samples)
        assert len(sampler.initials) == 1 and kernel.initials[-1] is not None
        # never the sampler's
        assert samples.carry is not None and int(samples.carry["calls"]) == step + 1
        assert samples.log_weight is not None
        assert torch.equal(samples.log_weight, torch.arange(3.0))  # proper weights stay proper
        # what the sampler said is told once; notes do not pile up along a chain
        notes = {name: note for name, note in samples.info.items() if name != "cost"}
        assert notes == (
            {"by": "kernel", "before": {"by": "sampler"}} if step == 0 else {"by": "kernel"}
        )


def test_the_state_of_the_sampler_is_the_composites():
    class Kept(Notes):
        """A sampler with a state, which says what it spent."""

        irrevocable = True
        state = 0

        def sample(self, problem, num, **rest):
            self.state += 1
            samples = super().sample(problem, num, **rest)
            return replace(samples, info={"spent": {"seconds": self.state}})

        def state_dict(self):
            return {"state": self.state}

        def load_state_dict(self, state):
            self.state = state["state"]

    composite = Corrected(Kept(False))
    assert composite.sample(PROBLEM, 3).info["spent"] == {"seconds": 1}
    assert isinstance(composite, Stateful) and composite.irrevocable
    other = Corrected(Kept(False))
    other.load_state_dict(composite.state_dict())
    assert other.state_dict() == {"sampler": {"state": 1}}
    plain = Corrected(Neal(sweeps=2))
    assert plain.state_dict() == {"sampler": None} and not plain.irrevocable
    plain.load_state_dict(plain.state_dict())
