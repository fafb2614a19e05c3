"""Every script runs from end to end, tiny, and leaves a picture and JSON with its keys."""

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import cells, common
from qsample import Graph, Ising, Settings
from qsample.diffusion import Potts
from qsample.models import BernoulliRBM
from qsample.problem.enumeration import log_weights
from qsample.problem.lattices import grid
from tests.support.thinning import thinned

EXPERIMENTS = Path(common.__file__).parent
PNG = b"\x89PNG\r\n\x1a\n"

# script: options of a tiny run, the keys of its result
TINY: dict[str, tuple[dict[str, Any], set[str]]] = {
    "train_rbm": (
        {"updates": 10, "chains": 32, "batch": 20, "sweeps": 2, "hidden": 4},
        {
            "test_log_likelihood",
            "train_log_likelihood",
            "independent_pixels",
            "beta",
            "beta_stderr",
            "verdict",
            "history",
        },
    ),
    "claims.compare_samplers": ({"reads": 200}, set()),
    "claims.bars_and_stripes": (
        {"updates": 50, "chains": 16, "hidden": 3, "sweeps": 1},
        {"exact", "persistent", "fresh"},
    ),
    "claims.contract_power": (
        {"seeds": 1, "only": ("h flipped", "right on the first 30 calls")},
        {"detects", "verdicts", "samplers"},
    ),
    "claims.digits_likelihood": (
        {
            "updates": 3,
            "lrs": (0.01, 0.02),
            "seeds": (0, 1),
            "chains": 16,
            "hidden": 3,
            "trainers": ("exact", "data", "tempering"),
        },
        {"trials", "runs", "test", "recipe"},
    ),
    "claims.judge_calibration": (
        {"right": 2, "wrong": 1, "sizes": (30,), "processes": 1, "problems": ("ring of 8",)},
        {"right_sets", "alarms", "verdicts", "power", "tests"},
    ),
    "claims.missed_modes": (
        {"seeds": 2, "steps": 60, "chains": 64, "cores": (15,)},
        {"A: ferromagnet of 30 spins, log Z", "B: RBM of 60 × 12, nats per row"},
    ),
    "claims.likelihood_modes": (
        {"random": 1, "planted": 1, "cores": (6,), "steps": 128, "chains": 16},
        {"random", "planted", "ferromagnets"},
    ),
    "claims.quantum_proposal": (
        {"sizes": (3, 4), "instances": 2, "betas": (1.0,), "at": 3, "draws": 1},
        {"sizes", "betas", "halving"},
    ),
    "claims.gate_training": (
        {"updates": 2, "hidden": 1, "chains": 4, "depth": 1},
        {"exact", "QAOA", "QAOA, corrected", "quantum-enhanced", "loopback QPU, corrected"},
    ),
    "claims.transverse_field": (
        {"spins": 3, "fields": (1.2,), "slices": (4, 8), "reads": 50, "sweeps": 2},
        {"fields", "order"},
    ),
    "claims.article_table": (
        {
            "spins": 4,
            "reads": 320,
            "lattice": (3, 3, 3),
            "chains": 16,
            "reference": 20,
            "longest": 2,
            "seeds": (0,),
            "chip": 1,
            "chip_reads": 4,
        },
        {"claimed", "small", "large", "chip", "gradient", "gradient_on_gpu", "matrices"},
    ),
    "claims.linear_algebra": (
        {
            "sizes": (4, 8),
            "draws": (20, 40),
            "repeats": 3,
            "terms": (4, 8),
            "unknowns": (2,),
            "bits": (2,),
            "problems": 1,
            "accuracy": 1e-2,
            "rounds": 1,
        },
        {"thermodynamic", "products", "least_squares", "times", "worst", "verdict"},
    ),
    "claims.clustered_data": (
        {"seeds": (0,), "updates": 4, "chains": 16, "rows": 40, "hidden": 3},
        {"runs", "nats_below_exact", "cpu_seconds_per_update"},
    ),
    "claims.qpu_faults": (
        {"calls": 3, "chance": 0.02},
        {"calls", "outcomes", "faults", "wrong", "spent", "charged", "budget", "worst_seconds"},
    ),
    "claims.guided_noise": (
        {
            "updates": 2,
            "batch": 10,
            "width": 8,
            "wishes": 20,
            "steps": 2,
            "budgets": (1, 2),
            "grid": 2,
            "scales": (1.0,),
            "sweeps": 1,
        },
        {"held_out", "claims", "rows"},
    ),
    "claims.mnist_likelihood": (
        {
            "hidden": 8,
            "updates": 3,
            "rates": (0.1,),
            "batches": (200,),
            "looks": 1,
            "annealing": 10,
            "small": 4,
            "steps": 200,
        },
        {"rows", "qsample", "search", "scikit-learn", "nats_above", "small"},
    ),
    "claims.mnist_record": (
        {"hidden": 4, "updates": 3, "steps": 200},
        {"updates", "train_seconds", "data", "test_log_likelihood", "log_partition_sides"},
    ),
    "claims.recipe_parts": (
        {"parts": ("the recipe",), "hidden": 8, "updates": 3, "annealing": 10},
        {"recipe", "parts"},
    ),
    "claims.large_actions": (
        {"steps": 320, "hidden": 4, "rates": (0.01,), "seeds": 1},
        {"rates", "rewards", "ratio"},
    ),
    "claims.reinforcement": (
        {
            "trials": 1,
            "judges": 1,
            "seeds": 1,
            "limit": 20,
            "reads": 5,
            "fits": 3,
            "worlds": ("maze", "steering", "lake"),
        },
        {"worlds", "errors"},
    ),
    "claims.sklearn_drop_in": (
        {
            "cases": ("digits, 64 → 100",),
            "passes": (3, 10),
            "seeds": (0,),
            "rounds": 1,
            "judged": 20,
            "rates": (0.3,),
        },
        {"cases", "classifiers", "checks"},
    ),
    "claims.train_on_qpu": (
        {
            "updates": 4,
            "chains": 16,
            "hidden": 3,
            "sweeps": 1,
            "seeds": (0,),
            "topology": "zephyr-1",
        },
        {"optimum", "samples", "runs", "summary"},
    ),
    "claims.few_steps": (
        {
            "steps": (1, 2),
            "updates": 4,
            "coupling_updates": 2,
            "pool": 20,
            "coupling_batch": 10,
            "batch": 10,
            "width": 8,
            "chain": 2,
            "sweeps": (2, 4),
            "images": 40,
            "validation": 4,
            "rows": 4,
            "anneal": 2,
            "seeds": (0,),
        },
        {"floor", "means", "paired", "matches", "rows"},
    ),
    "claims.binary_latents": (
        {
            "steps": (1, 2),
            "code_updates": 3,
            "code_width": 4,
            "updates": 3,
            "width": 8,
            "batch": 10,
            "coupling_updates": 2,
            "pool": 20,
            "chain": 2,
            "sweeps": 4,
            "images": 40,
            "validation": 4,
            "rows": 4,
            "anneal": 2,
            "seeds": (0,),
        },
        {"floor", "means", "rows"},
    ),
    "claims.tokens": (
        {
            "letters": 4,
            "steps": (1, 2),
            "updates": 3,
            "width": 8,
            "batch": 10,
            "coupling_updates": 4,
            "sweeps": 2,
            "images": 40,
            "validation": 10,
            "anneal": 2,
            "seeds": (0,),
        },
        {"floor", "means", "rows"},
    ),
    "claims.inpainting": (
        {
            "steps": (1, 2),
            "repeats": (1, 2),
            "updates": 3,
            "coupling_updates": 2,
            "batch": 10,
            "width": 8,
            "chain": 2,
            "sweeps": 2,
            "rows": 40,
        },
        {"floor", "seconds", "rows", "table"},
    ),
    "claims.clamped_steps": (
        {"bits": 4, "steps": (1, 2), "repeats": (1, 2), "seeds": (0,)},
        {"rows", "table"},
    ),
    "claims.super_resolution": (
        {
            "updates": 2,
            "batch": 4,
            "width": 8,
            "features": 2,
            "trained_steps": 2,
            "steps": (1, 2),
            "sweeps": 2,
            "images": 40,
        },
        {"test_digits", "table", "rows"},
    ),
    "claims.neural_energy": (
        {
            "updates": 3,
            "width": 8,
            "chains": 4,
            "seconds": 0.1,
            "seeds": (0,),
            "reference": 2,
            "blocks": (4, 8),
            "cell": 0.02,
            "law": 50,
        },
        {"law", "reference", "surrogates", "step_size", "runs", "summary"},
    ),
    "claims.diffusers_pipeline": (
        {
            "updates": 2,
            "codebook_updates": 2,
            "batch": 20,
            "steps": 2,
            "images": 40,
            "sweeps": 2,
            "rounds": 1,
        },
        {"quality", "loss", "same_elsewhere", "timing"},
    ),
    "claims.thermodynamic_model": (
        {
            "depths": (1, 2),
            "seeds": (0,),
            "lrs": (0.05,),
            "updates": 2,
            "batch": 10,
            "sweeps": 2,
            "generation": 2,
            "budgets": (2, 4),
            "images": 40,
            "evaluations": 1,
            "held_out": 40,
            "workers": 1,
        },
        {"floor", "bits", "table", "depths", "runs", "verdict"},
    ),
    "benchmarks.engine": (
        {
            "problems": ("3d-3, 4 x 3", "pcd-6x4, 5 x 1"),
            "peers": ("dwave Metropolis", "nobody's"),
            "quick": True,
        },
        {"sections"},
    ),
    "benchmarks.billion": (
        {"sides": (32,), "rounds": 1, "threads": 1},
        {"rows", "left_out"},
    ),
    "benchmarks.energy": (
        {
            "problems": ("3d-3",),
            "engines": ("qsample tempering", "dwave Gibbs"),
            "seconds": 0.05,
            "seeds": 1,
        },
        {"known", "rows", "left_out", "summary"},
    ),
    "benchmarks.distance": (
        {
            "engines": ("qsample Gibbs",),
            "betas": (1.0,),
            "sweeps": (1, 2),
            "reads": 64,
            "size": 4,
            "chains": 8,
            "relax": 5,
        },
        {"reads", "floors", "engines"},
    ),
    "benchmarks.dwave_call": (
        {"topology": "zephyr-2", "rounds": 1, "problems": 3},
        {"spins", "couplers", "calls", "tiles"},
    ),
    "benchmarks.pcd": (
        {"visible": 12, "hidden": 8, "batch": 10, "sweeps": 2, "rounds": 2, "threads": 1},
        {"steps", "left_out"},
    ),
    "benchmarks.ranks": (
        {
            "visible": 12,
            "hidden": 8,
            "chains": 8,
            "sweeps": 2,
            "rounds": 2,
            "steps": 1,
            "sizes": (1024, 4096),
            "exchanges": 3,
        },
        {"steps", "exchanges", "fit", "model"},
    ),
    "benchmarks.joint_step": (
        {"images": 2, "sweeps": (2, 200), "width": 8, "rounds": 2},
        {"goal", "denoiser_weights", "calls"},
    ),
    "benchmarks.reverse_step": (
        {
            "images": 2,
            "rows": 8,
            "columns": 8,
            "degree": 8,
            "sweeps": 2,
            "rounds": 2,
            "torch_rounds": 1,
            "teams": (1,),
        },
        {"spins", "updates", "engines"},
    ),
    "benchmarks.tempering": (
        {"visible": 12, "hidden": 8, "ladders": 4, "temperatures": 3, "sweeps": 4, "rounds": 1},
        {"calls", "isa"},
    ),
}


def script(name):
    return importlib.import_module(f"experiments.{name}")


def run(name, out, **options):
    module = script(name)
    module.main(module.Options(out=out, **options))


def strict(path):
    """JSON that any reader takes: no NaN, no Infinity."""

    def refuse(constant):
        pytest.fail(f"{constant} in {path.name}")

    return json.loads(path.read_text(), parse_constant=refuse)


def result(folder):
    return strict(folder / "results.json")["result"]


# those of more than three seconds; what they share with the others is tested there
QUICK = {
    "train_rbm",
    "claims.compare_samplers",
    "claims.qpu_faults",
    "benchmarks.dwave_call",
    "benchmarks.pcd",
    "benchmarks.reverse_step",
    "benchmarks.tempering",
}
RUNS = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.long) for name in TINY]


@pytest.mark.filterwarnings("ignore::qsample.ReliabilityWarning")  # of runs this short
@pytest.mark.parametrize("name", RUNS)
def test_a_tiny_run_leaves_json_and_a_picture(tmp_path, capsys, name):
    options, keys = TINY[name]
    run(name, tmp_path, **options)
    report = strict(tmp_path / "results.json")
    assert list(report) == ["command", "date", "machine", "versions", "options", "result"]
    assert {"processor", "instruction_set", "cores", "threads"} <= report["machine"].keys()
    assert {"python", "qsample", "torch"} <= report["versions"].keys()
    assert report["options"]["out"] and set(options) <= report["options"].keys()
    if keys:
        assert keys <= report["result"].keys()
    picture = tmp_path / "report.png"
    assert picture.read_bytes().startswith(PNG)
    assert picture.stat().st_size > 10_000
    assert str(picture) in capsys.readouterr().out  # the reader is told where to look
    assert not list(tmp_path.glob("*.tmp.*"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "claims.train_on_qpu",
            {"models": ("native", "foo")},
            "--models needs some of 'native', 'embedded'; got 'native', 'foo'",
        ),
        (
            "claims.train_on_qpu",
            {"hardware": True, "budget": 1.0},
            "--hardware needs a D-Wave token: set DWAVE_API_TOKEN or run `dwave config create`; "
            "without --hardware a loopback processor takes its place",
        ),
        ("claims.guided_noise", {"families": ("foo",)}, "--families needs some of 'plain', 'best "),
        ("claims.guided_noise", {"steps": 0}, "--steps needs 1 or more; got 0"),
        ("claims.few_steps", {"steps": (1, 0)}, "--steps needs 1 or more; got 1, 0"),
        ("claims.few_steps", {"steps": ()}, "--steps needs 1 or more; got none"),
        (
            "claims.few_steps",
            {"start": "foo"},
            "--start needs some of 'fresh', 'independent'; got 'foo'",
        ),
        ("claims.clamped_steps", {"bits": 30}, "--bits needs 2 to 12; got 30"),
        ("claims.clamped_steps", {"steps": (0,)}, "--steps needs 1 or more; got 0"),
    ],
)
def test_options_are_refused_before_anything_is_run(
    tmp_path, isolated, monkeypatch, name, options, message
):
    monkeypatch.setattr(script(name), "Report", pytest.fail)
    with pytest.raises(SystemExit) as stop:
        run(name, tmp_path, **options)
    assert str(stop.value).startswith(message) and "\n" not in str(stop.value)


@pytest.mark.parametrize(
    ("energy", "diversity", "scales"),
    [
        (0.0, 1.0, ["linear"] * 3),
        (2.0, math.nan, ["log", "log", "linear"]),
        (2.0, 1.0, ["log"] * 3),
    ],
)
def test_guided_noise_draws_what_has_no_logarithm(tmp_path, energy, diversity, scales):
    """Energies of 0, and no diversity where each wish has one image."""
    guided = script("claims.guided_noise")
    options = guided.Options(out=tmp_path, families=("plain",), budgets=(1,), grid=1, wishes=2)
    row = {
        "task": "class",
        "family": "plain",
        "budget": 1,
        "scale": 0.0,
        "network": 20,
        "energy": energy,
        "energy_stderr": 0.0,
        "energy_evaluations": 0,
        "hessian_vectors": 0,
        "diversity": diversity,
        "frechet": 1.0,
        "judge_accuracy": 0.5,
    }
    images = torch.zeros(2, 1, 8, 8)
    figure = guided.picture([row], {("class", "plain"): images}, {"class": images}, 8, options)
    assert [axis.get_yscale() for axis in figure.get_axes()[:3]] == scales
    common.Report(options, "guided_noise.py").picture(figure)
    assert (tmp_path / "report.png").read_bytes().startswith(PNG)


def test_all_scripts_are_run():
    scripts = {
        path.relative_to(EXPERIMENTS).with_suffix("").as_posix().replace("/", ".")
        for path in EXPERIMENTS.rglob("*.py")
        if "class Options(CommonOptions)" in path.read_text()
    }
    assert scripts == set(TINY)


@pytest.mark.parametrize("name", TINY)
def test_options_have_defaults_and_say_what_they_are(name):
    module = script(name)
    assert module.Options().out is None and not module.Options().publish
    path = f"experiments/{name.replace('.', '/')}.py"
    assert f"python {path}" in (module.__doc__ or "")
    assert module.main.__doc__


def test_a_script_runs_from_any_folder(tmp_path):
    """Its imports do not need the checkout to be the working folder."""
    path = EXPERIMENTS / "benchmarks" / "distance.py"
    line = [sys.executable, str(path), "--help"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "--publish" in done.stdout and "How far from the Boltzmann law" in done.stdout


def test_no_path_of_a_machine_is_published(tmp_path, monkeypatch):
    inside = common.ROOT / "runs" / "a"
    monkeypatch.setattr(sys, "argv", [str(EXPERIMENTS / "a.py"), "--out", str(tmp_path / "b"), "x"])
    assert common.command() == "python experiments/a.py --out b x"
    assert common.strict([tmp_path / "b", inside, Path("c/d")]) == ["b", "runs/a", "c/d"]


def test_strict_json_has_no_infinity(tmp_path):
    report = common.Report(common.CommonOptions(out=tmp_path), "a/b/some_claim.py")
    report.write({"a": (math.inf, math.nan, 1.5), 2: Path("x"), "t": torch.ones(2)})
    assert result(tmp_path) == {"a": [None, None, 1.5], "2": "x", "t": [1.0, 1.0]}
    assert report.name == "some_claim"


def test_paired_rounds_call_everything_once_per_round():
    calls = []
    seconds = common.paired_rounds({"a": lambda: calls.append(1), "b": lambda: None}, 3)
    assert len(calls) == 3 and [len(rounds) for rounds in seconds.values()] == [3, 3]
    double = [common.Seconds(2 * wall, cpu) for wall, cpu in seconds["a"]]
    assert common.ratio(double, seconds["a"]) == pytest.approx(2)


@pytest.mark.parametrize(
    "options",
    thinned([{"start": "persistent", "sampler": "gibbs"}, {"test": 0}, {"resume": True}], 3),
)
def test_train_rbm_variants(tmp_path, options):
    run("train_rbm", tmp_path, **TINY["train_rbm"][0], **options)
    row = result(tmp_path)
    assert "test_log_likelihood_high" not in row  # it is exact
    same = row["test_log_likelihood"] == row["train_log_likelihood"]
    assert same == ("test" in options)
    assert (tmp_path / "checkpoint.json").exists()


def test_train_rbm_on_rows_without_a_shape(tmp_path):
    (tmp_path / "mine.csv").write_text("0,1,0\n1,1,0\n0,0,1\n1,0,0\n" * 5)
    options = {**TINY["train_rbm"][0], "data": str(tmp_path / "mine.csv"), "test": 5}
    run("train_rbm", tmp_path / "run", **options)
    assert (tmp_path / "run" / "report.png").stat().st_size > 10_000


@pytest.mark.filterwarnings(
    "ignore::qsample.ReliabilityWarning"
)  # of samplers that are shown to be wrong
def test_compare_samplers_rows(tmp_path):
    run("claims.compare_samplers", tmp_path, reads=200)
    rows = result(tmp_path)
    names = {row["sampler"] for row in rows}
    assert len(rows) == 3 * len(names) and "Exact" in names
    for row in rows:
        assert 0 <= row["p_value"] <= 1
        assert 0 <= row["total_variation"] <= 1
        assert row["seconds"] > 0
        assert row["exactness"] in ("exact", "asymptotic", "heuristic")


def test_the_exact_energy_of_the_torus(tmp_path):
    """Against all states of a 4 x 4 one."""
    beta = 0.4
    edges = script("benchmarks.instances").lattice((4, 4))
    problem = Ising(Graph.sparse(16, edges), torch.zeros(16), -torch.ones(32))
    energy = problem.offset.double() - log_weights(problem)
    exact = float((-beta * energy).softmax(-1) @ energy)
    assert script("benchmarks.distance").torus_energy(beta, 4) == pytest.approx(exact, rel=1e-6)


def test_a_step_along_the_exact_gradient():
    """It is the step along the gradient of the likelihood by all joint states."""
    rows = torch.tensor([[0.0, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 1]])
    model = BernoulliRBM(4, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.W.mul_(50)
    problem = model.ising()
    log_z = log_weights(problem).logsumexp(0) - problem.offset
    loss = model.free_energy(rows).mean() + log_z
    weights = [model.W, model.b, model.c]
    gradient = torch.autograd.grad(loss, weights)
    before = [weight.detach().clone() for weight in weights]
    settings = Settings(updates=1, batch=3, lr=0.5, optimizer="sgd")
    script("claims.exact_gradient").fit_exactly(model, rows, settings, rows, lambda *_: {})
    for weight, start, slope in zip(weights, before, gradient, strict=True):
        torch.testing.assert_close(weight.detach(), start - 0.5 * slope.to(start))


@pytest.mark.long
def test_every_kind_of_instance_and_call():
    """The cells that the tiny runs leave out: warm chains, a batch, a cell that cannot be."""
    cell = script("benchmarks.cell")
    case = script("benchmarks.cases").case
    instances = script("benchmarks.instances")
    for name, spins in [
        ("rbm-6x4, 3 x 1", 10),
        ("shared-3x200, 1 x 2", 200),
        ("own-3x12, 1 x 2", 144),
        ("sk-12, 2 x 2", 12),
        ("2d-4, 2 x 3", 16),
    ]:
        for engine in ("qsample", "dwave Gibbs"):
            (row,) = cell.visit(case(name), engine, cell.QUICK)
            assert row["spins"] == spins and row["seconds"] > 0
    bench = script("benchmarks.energy")
    line = ["--cell", "no-16", "dwave Gibbs", "1"]
    reason = script("benchmarks.calls").isolated(bench.__file__, *line)
    assert isinstance(reason, str) and "unknown problem no-16" in reason
    # the chips of the README's table come with what setup installs
    chip = instances.chip
    assert int(chip("pegasus", 2).max()) + 1 == 24 * 2 * 1 - 8 * 1  # 24 m (m - 1) - 8 (m - 1)
    assert int(chip("zephyr", 2).max()) + 1 == 4 * 4 * 2 * 5  # 4 t m (2 m + 1)


@pytest.mark.long
def test_train_on_qpu_resumes_and_spends_no_more(tmp_path, sapi):
    """What is done is not paid again; a loopback processor stands for the hardware."""
    options = {**TINY["claims.train_on_qpu"][0], "hardware": True, "models": ("native",)}
    with pytest.raises(SystemExit, match="--hardware needs --budget"):
        run("claims.train_on_qpu", tmp_path, **options)
    assert not sapi.jobs
    run("claims.train_on_qpu", tmp_path, budget=10.0, **options)
    first = result(tmp_path)
    charged = sapi.charged
    spent = sum(row.get("qpu_seconds", 0.0) for row in first["runs"])
    assert charged / 1e6 == pytest.approx(spent)
    run("claims.train_on_qpu", tmp_path, budget=10.0, resume=True, **options)
    again = result(tmp_path)
    assert sapi.charged == charged and again["summary"] == first["summary"]
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or sapi.token.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("shape", [(28, 28), (11, 13)])
def test_far_and_near_neighbours_of_few_steps(shape):
    """Each pair once, no pair across the frame's edge."""
    graph = script("claims.few_steps").graph_of(shape)
    columns = shape[1]
    i, j = graph.edges
    down = (j // columns - i // columns).tolist()
    right = (j % columns - i % columns).tolist()
    steps = set(zip(down, right, strict=True))
    assert graph.num_spins == shape[0] * columns and len(steps) == 18
    assert all(abs(a) <= 8 and abs(b) <= 8 for a, b in steps)


def test_pixels_near_on_the_torus():
    """Every pixel has a spin of one colour, and its right neighbour is not far."""
    model = script("claims.thermodynamic_model")
    graph = grid(12, degree=8)
    labels = model.places(graph, (8, 8), 12)
    assert len(set(labels)) == 64 and len({(r + c) % 2 for r, c in labels}) == 1
    at = torch.tensor(labels).reshape(8, 8, 2)
    steps = torch.cat([at.diff(dim=0).flatten(0, 1), at.diff(dim=1).flatten(0, 1)])
    assert steps.abs().max() <= 4


def test_cells_are_kept_whole(tmp_path):
    """A name holds what was put last; one that was never put holds nothing."""
    kept = cells.Cells(tmp_path)
    assert kept.get("a") is None
    kept.put("a", {"x": torch.ones(2), "rows": [{"n": 1}]})
    kept.put("a", {"x": torch.zeros(2)})
    again = cells.Cells(tmp_path).get("a")
    assert list(again) == ["x"] and not again["x"].any()
    assert [path.name for path in kept.folder.iterdir()] == ["a.pt"]
    assert cells.digest({"b": 1, "a": 2}) == cells.digest({"a": 2, "b": 1})


def test_the_gain_of_couplings_of_letters():
    """Annealed importance sampling in many steps, against log P by all states."""
    tokens = script("claims.tokens")
    generator = torch.Generator().manual_seed(0)
    graph = Graph.sparse(3, [(0, 1), (1, 2)])
    h = torch.randn(1, 3, 3, generator=generator, dtype=torch.float64)
    J = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
    states = torch.cartesian_prod(*[torch.arange(3)] * 3)
    laws = [Potts(graph, h, scale * J) for scale in (0.0, 1.0)]
    log_p = [(-law.energy(states[None])[0]).log_softmax(0) for law in laws]
    x = states[5].expand(400, 3)
    many = Potts(graph, h.expand(400, -1, -1), J)
    gains = tokens.gain_of(many, x, 60, generator)
    exact = float(log_p[1][5] - log_p[0][5])
    error = float(gains.std()) / 20
    bias = float(gains.var()) / 2  # of the mean logarithm of a weight, to second order
    assert abs(float(gains.mean()) - exact) < 5 * error + bias


@pytest.mark.parametrize("shape", [(8, 8), (28, 28)])
def test_a_remembered_denoiser_asks_for_each_row_once(shape):
    """Also where nothing is new: an empty batch is none that a network can take."""
    denoiser = script("denoiser")
    net = denoiser.Denoiser(shape, 8).eval()
    x = torch.ones(3, shape[0] * shape[1]).sign()
    x[1, 0] = -1
    times = torch.tensor([0.5, 0.5, 1.0])
    remembered = denoiser.Remembered(net)
    with torch.no_grad():
        answers = remembered(x, times)
        torch.testing.assert_close(answers, net(x, times))
    assert len(remembered.answers) == 3
    remembered.ask = None
    assert not list(remembered.parameters())
    assert torch.equal(remembered(x[:2], times[:2]), answers[:2])


@pytest.mark.long
def test_few_steps_of_large_images(tmp_path):
    options = TINY["claims.few_steps"][0]
    large = {**options, "data": "mnist5k", "steps": (1,), "images": 8}
    for start in ("fresh", "independent"):
        run("claims.few_steps", tmp_path, **{**large, "start": start})
    assert {row["kind"] for row in result(tmp_path)["rows"]} == {"factorised", "copula"}


def test_particles_of_feynman_kac_steering_follow_the_tilted_law():
    """A linear chain of normal laws, p(x_0) = N(0, v): times exp(-c x_0) it is N(-c v, v)."""
    rivals = script("guidance_rivals")
    slope = 0.8
    groups = 50
    scheduler = rivals.FeynmanKac(clip_sample=False)
    scheduler.set_timesteps(10)
    scheduler.energy = lambda x, x0, t: x.flatten(1).sum(1)
    scheduler.scale = slope
    scheduler.particles = torch.arange(groups * 400).reshape(groups, 400)
    scheduler.at_end = True
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(groups * 400, 1, 1, 1, generator=generator)
    variance = 1.0
    for t in scheduler.timesteps:
        signal = scheduler.alphas_cumprod[t]
        output = (1 - signal) ** 0.5 * x  # the noise in x, of data of unit variance
        arguments = {"model_output": output / x, "timestep": t, "sample": torch.ones_like(x)}
        reverse = rivals.ddpm(scheduler, arguments)
        variance = float(reverse.mean[0]) ** 2 * variance + float(reverse.std) ** 2
        x = scheduler.step(output, t, x, generator).prev_sample
    means = x.flatten()[scheduler.particles].double().mean(1)
    assert abs(means.mean() + slope * variance) < 5 * means.std() / groups**0.5
    assert float(x.var()) == pytest.approx(variance, rel=0.05)
    assert scheduler.evaluations == 5 * len(x)


def test_pseudo_likelihood_reads_each_image_in_its_own_problem():
    pytest.importorskip("diffusers")
    from experiments.bit_pipeline import pseudo_likelihood

    generator = torch.Generator().manual_seed(0)
    graph = Graph.sparse(4, [(0, 1), (1, 2), (2, 3), (0, 3)])
    h, J, x = (torch.randn(5, 4, dtype=torch.float64, generator=generator) for _ in range(3))
    spins = x.sign()
    total = torch.zeros(())
    for k in range(5):
        problem = Ising(graph, h[k], J[k])
        # each spin turned in its turn: -log P(s_i | rest) = log(1 + exp(E - E'))
        turned = spins[k] * (1 - 2 * torch.eye(4))
        rise = problem.energy(turned) - problem.energy(spins[k, None])
        total = total + torch.nn.functional.softplus(-rise).sum()
    assert torch.allclose(pseudo_likelihood(Ising(graph, h, J), spins, generator), total / 5)
