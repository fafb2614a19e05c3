"""What runs on a GPU: laws, gradients, training and bounds of the torch paths, beside the CPU's."""

import pytest
import torch
from torch import nn

import qsample as qs
from qsample import Graph, Ising, evidence_bound, fit, load_run
from qsample.annealers import (
    QAOA,
    AnnealedImportance,
    Corrected,
    Exact,
    Gibbs,
    ParallelTempering,
    PopulationAnnealing,
    SimulatedAnnealing,
    TemperedGibbs,
    TrajectoryTempering,
)
from qsample.diffusion import UniformBits
from qsample.learning import by_products
from qsample.models import (
    BernoulliRBM,
    BoltzmannMachine,
    DenoisingThermodynamicModel,
    IsingCopula,
)
from qsample.problem.enumeration import states
from qsample.testing import FALSE_ALARM, g_test
from tests.support.exact import KINDS, Z_MAX, a_graph, a_problem
from tests.support.seeds import generator

DEVICE = "cuda"

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU of CUDA is here")

# down from infinite temperature in 20 sweeps, then 30 at the target
SLOW = [k / 20 for k in range(20)] + [1.0] * 30

# settings at which reads follow the law of five weakly coupled spins
SAMPLERS = {
    "exact": Exact(),
    "gibbs": Gibbs(30),
    "gibbs palindromic": Gibbs(20, scan="palindromic"),
    "gibbs schedule": Gibbs(betas=SLOW),
    "annealing": SimulatedAnnealing(schedule=SLOW),
    "annealing metropolis": SimulatedAnnealing(schedule=SLOW, rule="metropolis"),
    "tempering": ParallelTempering(30, 3),
    "tempered gibbs": TemperedGibbs((1.0, 0.5, 0.0), rounds=6),
    "trajectory": TrajectoryTempering(sweeps=30),
    "population": PopulationAnnealing(10),
    "importance": AnnealedImportance(20),
    "corrected": Corrected(SimulatedAnnealing(5), Gibbs(30)),
    "corrected qaoa": Corrected(QAOA(1), Gibbs(30)),
}
READS = 3000


def on_both(make):
    """Two of what `make` gives: on the CPU, and on the GPU."""
    return make(), make().to(DEVICE)


def close(ours, theirs, **tolerance):
    torch.testing.assert_close(ours.cpu(), theirs, **tolerance)


def rbm(n=6, m=5, dtype=torch.float32):
    model = BernoulliRBM(n, m, scale=2.0, generator=generator(0))
    with torch.no_grad():
        model.b.copy_(torch.randn(n, generator=generator(1)) / 2)
        model.c.copy_(torch.randn(m, generator=generator(2)) / 2)
    return model.to(dtype)


def rows(count=64, n=6):
    return (torch.rand(count, n, generator=generator(3)) < 0.4).float()


def follow(problem, reads):
    """Every problem's reads follow its enumerated law."""
    least = FALSE_ALARM / (3 * len(SAMPLERS))
    for p, distance, _ in g_test(problem, reads):
        assert p > least, f"p = {p:.1e}, total variation {distance:.3f}"


# ---- samplers ----------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_reads_have_the_law(name, kind):
    problem = a_problem(a_graph(kind), h=(2,), scale=0.6, dtype=torch.float32).to(DEVICE)
    reads = SAMPLERS[name].sample(problem, READS, generator=generator(4))
    assert reads.spins.device.type == DEVICE
    assert reads.energy.device.type == DEVICE
    torch.testing.assert_close(reads.energy, problem.energy(reads.spins))
    follow(problem, reads)
    again = SAMPLERS[name].sample(problem, READS, generator=generator(4))
    assert torch.equal(again.spins, reads.spins)


@pytest.mark.parametrize("name", ["gibbs", "annealing", "tempering"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions(name, dtype):
    problem = a_problem(a_graph("bipartite"), scale=0.6, dtype=dtype).to(DEVICE)
    reads = SAMPLERS[name].sample(problem, READS, generator=generator(5))
    assert reads.energy.dtype == dtype
    follow(problem, reads)


def test_products_of_bfloat16():
    problem = a_problem(a_graph("bipartite"), scale=0.6, dtype=torch.float32)
    h, J = (t.to(torch.bfloat16).float() for t in (problem.h, problem.J))
    rounded = Ising(problem.graph, h, J).to(DEVICE)
    reads = Gibbs(30, precision="bfloat16").sample(rounded, READS, generator=generator(6))
    follow(rounded, reads)


def test_chains_go_on_where_they_are():
    problem = a_problem(a_graph("sparse"), dtype=torch.float32).to(DEVICE)
    numbers = generator(7)
    first = Gibbs(1).sample(problem, READS, generator=numbers)
    for _ in range(20):
        first = Gibbs(2).sample(problem, READS, initial=first, generator=numbers)
    assert first.spins.device.type == DEVICE
    follow(problem, first)
    assert "wrong" not in str(qs.diagnose(problem, first))
    beta = qs.effective_beta(problem, first)
    assert abs(beta.value - 1) < Z_MAX * beta.stderr
    with pytest.raises(ValueError, match="initial is on cuda"):
        Gibbs(1).sample(problem.to("cpu"), READS, initial=first)


def test_a_large_rbm_shares_a_law_with_the_cpu():
    """Means of 96 spins, by their errors: more than enumeration reaches."""
    problem = rbm(64, 32).ising().detach()
    here = Gibbs(100).sample(problem, READS, generator=generator(9)).spins.double().mean(0)
    there = Gibbs(100).sample(problem.to(DEVICE), READS, generator=generator(10)).spins
    z = (there.cpu().double().mean(0) - here) / ((1 - here.square()) * 2 / READS).sqrt()
    assert z.abs().max() < Z_MAX


def test_partition_functions():
    problem = a_problem(a_graph("complete"), scale=0.6, dtype=torch.float32)
    exact = qs.log_partition(problem, method="exact").value
    found = qs.log_partition(problem.to(DEVICE), method="exact").value
    assert abs(float(found) - float(exact)) < 1e-4
    model, moved = on_both(rbm)
    data = rows()
    ours = qs.log_likelihood(moved, data.to(DEVICE), "exact").value
    assert abs(ours - qs.log_likelihood(model, data, "exact").value) < 1e-4
    found = qs.log_likelihood(moved, data.to(DEVICE), "bracket", steps=400, chains=32)
    assert found.low <= ours + 0.05
    assert found.high >= ours - 0.05


# ---- losses ----------------


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_those_of_the_cpu(dtype):
    model, moved = on_both(lambda: rbm(dtype=dtype))
    data = rows().to(dtype)
    reads = Gibbs(2).sample(model.ising(), 10, generator=generator(11))
    loss = qs.cd_loss(model, data, reads)
    ours = qs.cd_loss(moved, data.to(DEVICE), reads.to(DEVICE))
    close(ours, loss)
    for mine, theirs in zip(gradients(moved, ours), gradients(model, loss), strict=True):
        close(mine, theirs)


@pytest.mark.parametrize("start", ["data", "persistent", "fresh", "jarzynski"])
@pytest.mark.parametrize("centred", [False, True])
def test_contrastive_divergence(start, centred):
    model = rbm().to(DEVICE)
    data = rows().to(DEVICE)
    cd = qs.ContrastiveDivergence(model, Gibbs(2), start=start, num=32, centred=centred)
    found = []
    for _ in range(3):
        found = gradients(model, cd(data))
    assert cd.samples is not None
    assert cd.samples.spins.device.type == DEVICE
    if not centred:
        expected = gradients(model, qs.cd_loss(model, data, cd.samples))
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs)


def test_hidden_units_that_are_coupled():
    model = BoltzmannMachine(Graph.complete(6), hidden=[4, 5]).to(DEVICE)
    data = 2 * rows(8, 4).to(DEVICE) - 1
    cd = qs.ContrastiveDivergence(model, Gibbs(3), num=16, positive_num=2)
    cd(data).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_autocast():
    model, moved = on_both(lambda: rbm(64, 32))
    data = rows(32, 64)
    reads = Gibbs(2).sample(model.ising(), 32, generator=generator(12))
    expected = gradients(model, qs.cd_loss(model, data, reads))
    with torch.autocast(DEVICE, torch.bfloat16):
        loss = qs.cd_loss(moved, data.to(DEVICE), reads.to(DEVICE))
    for mine, theirs in zip(gradients(moved, loss), expected, strict=True):
        close(mine, theirs, rtol=0.05, atol=0.01)


# ---- large models ----------------


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(by_products, "LARGE", 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chains_of_a_large_model_have_its_law(dtype, always):
    model = rbm(4, 3, dtype).to(DEVICE)
    cd = qs.ContrastiveDivergence(
        model, Gibbs(30), start="fresh", num=READS, generator=generator(13)
    )
    assert by_products.serves(model, cd.sampler, "fresh")
    cd(rows(8, 4).to(DEVICE))
    assert cd.samples is not None
    problem = model.ising().detach().to(dtype=torch.float64)
    follow(problem, cd.samples)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("start", ["data", "persistent"])
def test_the_step_of_a_large_model(dtype, start, always):
    model = rbm(40, 24, dtype).to(DEVICE)
    data = rows(16, 40)
    cd = qs.ContrastiveDivergence(model, Gibbs(2), start=start, num=16)
    found = gradients(model, cd(data.to(DEVICE)))
    assert cd.samples is not None
    assert all(grad.dtype == dtype for grad in found)
    wide = rbm(40, 24, dtype).float()
    expected = gradients(wide, qs.cd_loss(wide, data, cd.samples.to("cpu")))
    tolerance = {} if dtype == torch.float32 else {"rtol": 0.02, "atol": 5e-3}
    for mine, theirs in zip(found, expected, strict=True):
        close(mine.float(), theirs, **tolerance)


def test_draws_of_a_large_model_repeat(always):
    model = rbm(40, 24).to(DEVICE)
    data = rows(16, 40).to(DEVICE)

    def reads():
        cd = qs.ContrastiveDivergence(model, Gibbs(5), start="data", generator=generator(14))
        cd(data)
        assert cd.samples is not None
        return cd.samples

    first = reads()
    assert torch.equal(first.spins, reads().spins)
    torch.testing.assert_close(first.energy, model.ising().energy(first.spins).detach())


# ---- training ----------------


def assert_moved_on(history, updates):
    assert [line["update"] for line in history][-1] == updates
    assert all(line["log_likelihood"] == line["log_likelihood"] for line in history)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_run_of_the_gpu_goes_on_on_the_cpu(optimizer, tmp_path):
    settings = {"updates": 6, "chains": 32, "batch": 16, "optimizer": optimizer, "decay": "none"}
    settings |= {"evaluate_every": 3, "checkpoint_every": 3}
    quiet = {"out": tmp_path / "run", "progress": False}
    model = rbm()
    assert_moved_on(fit(model, rows(), Gibbs(2), settings, device=DEVICE, **quiet), 6)
    assert model.W.device.type == DEVICE
    saved = load_run(tmp_path / "run")
    close(model.W.detach(), saved.model.get_parameter("W").detach(), rtol=0, atol=0)
    further = rbm()
    settings["updates"] = 9
    assert_moved_on(fit(further, rows(), Gibbs(2), settings, resume=True, **quiet), 9)
    assert further.W.device.type == "cpu"
    # and back again
    settings["updates"] = 12
    last = rbm()
    assert_moved_on(fit(last, rows(), Gibbs(2), settings, resume=True, device=DEVICE, **quiet), 12)


def test_a_resumed_run_is_one_that_never_stopped(tmp_path):
    settings = {"updates": 8, "chains": 32, "batch": 16, "decay": "none", "checkpoint_every": 4}
    whole = rbm()
    fit(whole, rows(), Gibbs(2), settings, device=DEVICE, progress=False)
    quiet = {"out": tmp_path / "run", "progress": False, "device": DEVICE}
    fit(rbm(), rows(), Gibbs(2), settings | {"updates": 4}, **quiet)
    model = rbm()
    fit(model, rows(), Gibbs(2), settings, resume=True, **quiet)
    torch.testing.assert_close(model.W, whole.W)


def test_fit_of_a_large_model(always, tmp_path):
    settings = {"updates": 4, "chains": 16, "batch": 16, "evaluate_every": 2}
    model = rbm(40, 24)
    history = fit(
        model, rows(32, 40), Gibbs(2), settings, device=DEVICE, out=tmp_path / "run", progress=False
    )
    assert history[-1]["update"] == 4
    close(model.W.detach(), load_run(tmp_path / "run").model.get_parameter("W").detach())


def test_a_fused_update_of_a_large_model(always):
    settings = {"updates": 4, "chains": 16, "batch": 16, "optimizer": "sgd", "lr": 0.1}
    settings |= {"weight_decay": 0.01, "seed": 3}
    usual = rbm(40, 24)
    fit(usual, rows(32, 40), Gibbs(2), settings, device=DEVICE, progress=False)
    model = rbm(40, 24)
    settings["fused_update"] = True
    fit(model, rows(32, 40), Gibbs(2), settings, device=DEVICE, progress=False)
    assert model.W.grad is None
    for mine, theirs in zip(model.parameters(), usual.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_memory_of_a_large_step(monkeypatch):
    """W and its gradient, and little beside."""
    monkeypatch.setattr(by_products, "LARGE", 1 << 20)
    model = BernoulliRBM(8192, 4096).to(DEVICE)
    data = rows(64, 8192).to(DEVICE)
    cd = qs.ContrastiveDivergence(model, Gibbs(1), start="data")
    model.W.grad = torch.zeros_like(model.W)
    cd(data).backward()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    cd(data).backward()
    assert torch.cuda.max_memory_allocated() - before < 0.25 * 4 * model.W.numel()


def test_the_command_line(tmp_path, capsys):
    pytest.importorskip("tyro")
    from qsample.cli import main

    run = tmp_path / "run"
    options = ["--data", "bars-and-stripes-3x3", "--hidden", "3", "--batch", "10", "--sweeps", "1"]
    options += ["--chains", "16", "--evaluate-every", "2", "--decay", "none"]
    main(["train", "--out", str(run), *options, "--updates", "4", "--device", DEVICE])
    main(["evaluate", str(run), "--reads", "50", "--sweeps", "2", "--device", DEVICE])
    assert "train log likelihood" in capsys.readouterr().out
    draws = str(tmp_path / "x.npy")
    main(["sample", str(run), "--num", "7", "--sweeps", "2", "--out", draws, "--device", DEVICE])
    # on the CPU from here
    main(["train", "--out", str(run), *options, "--updates", "6", "--resume"])
    assert load_run(run).update == 6


# ---- diffusion ----------------


class Linear(nn.Module):
    def __init__(self, n, steps):
        super().__init__()
        self.W = nn.Parameter(torch.randn(n, n, generator=generator(15), dtype=torch.float64) / 2)
        self.b = nn.Parameter(torch.zeros(steps + 1, n, dtype=torch.float64))

    def forward(self, x, k):
        return (x[:, None] * self.W).sum(-1) + self.b[k]


def a_copula(n=4):
    process = UniformBits(torch.tensor([0.0, 0.3, 0.8, 1.5]), 1.0)
    model = IsingCopula(Linear(n, process.steps), Graph.complete(n), process).double()
    with torch.no_grad():
        model.J.copy_(torch.randn(model.J.shape, generator=generator(16)) / 2)
    return model


def test_evidence_bound_of_a_copula():
    model, moved = on_both(a_copula)
    data = states(4).double()
    expected = evidence_bound(model, data, method="exact", generator=generator(17))
    found = evidence_bound(moved, data.to(DEVICE), method="exact", generator=generator(17))
    assert isinstance(expected, qs.Estimate)
    assert isinstance(found, qs.Estimate)
    assert abs(found.value - expected.value) < 1e-6
    found = evidence_bound(moved, data.to(DEVICE), method="bracket", generator=generator(17))
    assert isinstance(found, qs.Bracket)
    assert expected.value in found


def test_draws_of_a_copula_are_those_of_the_cpu_in_law():
    model, moved = on_both(a_copula)
    num = 2000
    here = model.sample(Gibbs(20), num, generator=generator(18)).double()
    there = moved.sample(Gibbs(20), num, generator=generator(19)).double()
    assert there.device.type == DEVICE
    features = [torch.einsum("ri,rj->rij", x, x).flatten(1).cpu() for x in (here, there)]
    pooled = torch.cat(features).var(0).clamp_min(1e-9)
    z = (features[0].mean(0) - features[1].mean(0)) / (2 * pooled / num).sqrt()
    assert z.abs().max() < Z_MAX


def test_losses_of_a_copula():
    model = a_copula().to(DEVICE)
    data = states(4).double().to(DEVICE)
    after = model.process.noise(data, 2, generator=generator(20))
    near = model.process.noise(data, 1, generator=generator(21))
    loss = model.cd_loss(near, after, 2, Gibbs(5), generator=generator(22)).mean()
    loss = loss + model.evidence_loss(data, 2, Gibbs(5), generator=generator(23)).mean()
    loss.backward()
    assert model.J.grad is not None
    assert model.J.grad.isfinite().all()
    assert model.J.grad.any()


def test_draws_of_a_machine_with_latent_spins():
    model = DenoisingThermodynamicModel(Graph.complete(5), 3, 3, visible=(2, 0, 1)).to(DEVICE)
    data = states(3).to(DEVICE)
    draws = model.sample(Gibbs(10), 32, generator=generator(24))
    assert draws.device.type == DEVICE
    found = evidence_bound(model, data, generator=generator(25))
    assert isinstance(found, qs.Estimate)
    there = evidence_bound(model.cpu(), data.cpu(), generator=generator(25))
    assert isinstance(there, qs.Estimate)
    assert abs(found.value - there.value) < 1e-5
