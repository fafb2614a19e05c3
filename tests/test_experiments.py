"""Every experiment runs from end to end, tiny, and leaves a picture and JSON with the keys its readers use."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from qsample import Graph, Ising
from qsample.problem.enumeration import log_weights
from tests.support.thinning import thinned

FOLDER = Path(__file__).parents[1] / "experiments"
PNG = b"\x89PNG\r\n\x1a\n"

# script: options of a tiny run, the JSON file and its keys, the picture
TINY: dict[str, tuple[dict[str, Any], str, set[str], str]] = {
    "train_rbm": (
        {"updates": 10, "chains": 32, "batch": 20, "sweeps": 2, "hidden": 4},
        "metrics.json",
        {
            "test_log_likelihood",
            "test_log_likelihood_stderr",
            "train_log_likelihood",
            "beta",
            "beta_stderr",
            "verdict",
            "seconds",
            "options",
            "independent_pixels",
        },
        "report.png",
    ),
    "compare_samplers": ({"reads": 200}, "results.json", {"reads", "results"}, "comparison.png"),
    "bars_and_stripes": (
        {"updates": 50, "chains": 16, "hidden": 3, "sweeps": 1},
        "results.json",
        {"exact", "persistent", "fresh"},
        "curves.png",
    ),
    "digits_likelihood": (
        {"updates": (3,), "lrs": (0.01, 0.02), "seeds": (0,), "chains": 16, "hidden": 3},
        "results.json",
        {"exact", "persistent", "fresh", "data"},
        "likelihood.png",
    ),
    "missed_modes": (
        {"seeds": 2, "steps": 60, "chains": 64, "cores": (15,)},
        "results.json",
        {"options", "cases"},
        "missed_modes.png",
    ),
    "bench_engine": (
        {
            "problems": ("3d-3, 4 x 3",),
            "engines": ("qsample", "dwave Metropolis"),
            "repeats": 1,
            "rounds": 1,
        },
        "results.json",
        {"about", "results", "left_out"},
        "engine.png",
    ),
    "qpu_faults": (
        {"calls": 3, "chance": 0.02},
        "results.json",
        {"outcomes", "faults", "wrong", "spent", "charged", "budget", "worst_seconds"},
        "faults.png",
    ),
    "guided_noise": (
        {
            "updates": 2,
            "wishes": 20,
            "steps": (2, 3),
            "scales": (1.0,),
            "best_of": (2,),
            "sweeps": 1,
        },
        "results.json",
        {"options", "held_out", "claims", "results"},
        "guided_noise.png",
    ),
    "bench_energy": (
        {
            "problems": ("3d-3",),
            "engines": ("qsample tempering", "dwave Gibbs"),
            "seconds": 0.05,
            "seeds": 1,
        },
        "results.json",
        {"about", "known", "results"},
        "energy.png",
    ),
    "bench_distance": (
        {
            "engines": ("qsample Gibbs",),
            "betas": (1.0,),
            "sweeps": (1, 2),
            "reads": 64,
            "size": 4,
            "chains": 8,
            "relax": 5,
        },
        "results.json",
        {"about", "reads", "floors", "results"},
        "distance.png",
    ),
    "bench_dwave": (
        {"topology": "zephyr-2", "rounds": 1, "problems": 3},
        "results.json",
        {"about", "results"},
        "calls.png",
    ),
    "train_on_qpu": (
        {
            "updates": 4,
            "chains": 16,
            "hidden": 3,
            "sweeps": 1,
            "seeds": (0,),
            "topology": "zephyr-1",
        },
        "results.json",
        {"optimum", "samples", "runs", "below_exact"},
        "curves.png",
    ),
    "few_steps": (
        {
            "steps": (1, 2),
            "updates": 4,
            "batch": 10,
            "width": 8,
            "rank": 1,
            "sweeps": (2, 4),
            "seeds": (0,),
        },
        "results.json",
        {"options", "floor", "matches", "rows"},
        "few_steps.png",
    ),
    "neural_energy": (
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
        "results.json",
        {"law", "reference", "surrogates", "step_size", "runs", "summary"},
        "modes.png",
    ),
    "diffusers_pipeline": (
        {
            "updates": 2,
            "codebook_updates": 2,
            "batch": 20,
            "steps": 2,
            "images": 40,
            "sweeps": 2,
            "rounds": 1,
        },
        "results.json",
        {"quality", "loss", "same_elsewhere", "timing", "options"},
        "pipelines.png",
    ),
    "bench_pcd": (
        {"visible": 12, "hidden": 8, "batch": 10, "sweeps": 2, "rounds": 2, "threads": 1},
        "results.json",
        {"about", "results"},
        "steps.png",
    ),
    "thermodynamic_model": (
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
        "results.json",
        {"options", "floor", "table", "runs", "verdict"},
        "depth.png",
    ),
    "bench_reverse_step": (
        {
            "images": 2,
            "rows": 8,
            "columns": 8,
            "degree": 8,
            "sweeps": 2,
            "rounds": 1,
            "threads": (1,),
        },
        "results.json",
        {"about", "results"},
        "step.png",
    ),
}


def script(name):
    """The script as a module, under a name of its own."""
    spec = importlib.util.spec_from_file_location(f"experiment_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def run(name, out, **options):
    module = script(name)
    module.main(module.Options(out=out, **options))


def strict(path):
    """JSON that any reader takes: no NaN, no Infinity."""
    return json.loads(
        path.read_text(), parse_constant=lambda constant: pytest.fail(f"{constant} in {path.name}")
    )


# those of more than three seconds; what they share with the others is tested there
LENGTHY = {
    "neural_energy", "diffusers_pipeline", "bench_energy", "bench_engine", "bench_distance", "train_on_qpu",
    "guided_noise", "bars_and_stripes", "thermodynamic_model", "missed_modes", "few_steps", "digits_likelihood",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::qsample.ReliabilityWarning")  # of runs this short
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] * (name in LENGTHY)) for name in TINY]
)
def test_a_tiny_run_leaves_json_and_a_picture(tmp_path, capsys, name):
    options, results, keys, picture = TINY[name]
    run(name, tmp_path, **options)
    assert keys <= strict(tmp_path / results).keys()
    assert (tmp_path / picture).read_bytes().startswith(PNG) and (
        tmp_path / picture
    ).stat().st_size > 10_000
    out = capsys.readouterr().out
    assert str(tmp_path / picture) in out  # the reader is told where to look


@pytest.mark.parametrize("name", TINY)
def test_options_have_defaults_and_say_what_they_are(name):
    module = script(name)
    assert module.Options().out.parts[0] == "runs"
    assert module.__doc__ and module.main.__doc__


@pytest.mark.parametrize(
    "options",
    thinned([{"start": "persistent", "sampler": "gibbs"}, {"test": 0}, {"resume": True}], 3),
)
def test_train_rbm_variants(tmp_path, options):
    run("train_rbm", tmp_path, **TINY["train_rbm"][0], **options)
    result = strict(tmp_path / "metrics.json")
    assert result["test_log_likelihood_stderr"] == 0
    assert (result["test_log_likelihood"] == result["train_log_likelihood"]) == ("test" in options)
    assert (tmp_path / "checkpoint.json").exists() and not (tmp_path / "report.tmp.png").exists()


def test_train_rbm_on_rows_without_a_shape(tmp_path):
    (tmp_path / "mine.csv").write_text("0,1,0\n1,1,0\n0,0,1\n1,0,0\n" * 5)
    options = {**TINY["train_rbm"][0], "data": str(tmp_path / "mine.csv"), "test": 5}
    run("train_rbm", tmp_path / "run", **options)
    assert (tmp_path / "run" / "report.png").stat().st_size > 10_000


@pytest.mark.filterwarnings(
    "ignore::qsample.ReliabilityWarning"
)  # of samplers that are shown to be wrong
def test_compare_samplers_rows(tmp_path):
    run("compare_samplers", tmp_path, reads=200)
    rows = strict(tmp_path / "results.json")["results"]
    names = {row["sampler"] for row in rows}
    assert len(rows) == 3 * len(names) and "Exact" in names
    for row in rows:
        assert 0 <= row["p_value"] <= 1 and 0 <= row["total_variation"] <= 1 and row["seconds"] > 0
        assert row["exactness"] in ("exact", "asymptotic", "heuristic")


def test_the_exact_energy_of_the_torus(tmp_path):
    """Against all states of a 4 x 4 one."""
    beta, edges = 0.4, script("bench_engine").lattice((4, 4))
    problem = Ising(Graph.sparse(16, edges), torch.zeros(16), -torch.ones(32))
    energy = problem.offset.double() - log_weights(problem)
    exact = float((-beta * energy).softmax(-1) @ energy)
    assert script("bench_distance").torus_energy(beta, 4) == pytest.approx(exact, rel=1e-6)


@pytest.mark.long
def test_every_kind_of_instance_and_call():
    """The cells that the tiny runs leave out: warm chains, a batch, a cell that cannot be."""
    bench = script("bench_engine")
    for name, spins in [
        ("rbm-6x4, 3 x 1", 10),
        ("shared-3x200, 1 x 2", 200),
        ("sk-12, 2 x 2", 12),
        ("2d-4, 2 x 3", 16),
    ]:
        for engine in ("qsample", "dwave Gibbs"):
            row = bench.cell(name, engine, 1)
            assert row["spins"] == spins and row["seconds"] > 0 and row["updates_per_ns"] > 0
    reason = bench.isolated(bench.__file__, "--cell", "no-16", "qsample")
    assert isinstance(reason, str) and "unknown problem no-16" in reason
    # the chips of the README's table come with what setup installs
    assert int(bench.chip("pegasus", 2).max()) + 1 == 24 * 2 * 1 - 8 * 1  # 24 m (m - 1) - 8 (m - 1)
    assert int(bench.chip("zephyr", 2).max()) + 1 == 4 * 4 * 2 * 5  # 4 t m (2 m + 1)


@pytest.mark.long
def test_train_on_qpu_resumes_and_spends_no_more(tmp_path, sapi):
    """The loopback processor stands for the hardware that the environment names; what is done is not paid again."""
    options = {**TINY["train_on_qpu"][0], "hardware": True, "models": ("native",)}
    with pytest.raises(SystemExit, match="--hardware needs --budget"):
        run("train_on_qpu", tmp_path, **options)
    assert not sapi.jobs
    run("train_on_qpu", tmp_path, budget=10.0, **options)
    first, charged = strict(tmp_path / "results.json"), sapi.charged
    assert charged / 1e6 == pytest.approx(sum(one.get("qpu_seconds", 0.0) for one in first["runs"]))
    run("train_on_qpu", tmp_path, budget=10.0, resume=True, **options)
    again = strict(tmp_path / "results.json")
    assert sapi.charged == charged and again["below_exact"] == first["below_exact"]
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or sapi.token.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("shape", [(28, 28), (11, 13)])
def test_far_and_near_neighbours_of_few_steps(shape):
    """Each pair once, no pair across the frame's edge."""
    graph, columns = script("few_steps").graph_of("copula", shape), shape[1]
    i, j = graph.edges
    steps = {
        (int(a), int(b))
        for a, b in zip((j // columns - i // columns), (j % columns - i % columns), strict=True)
    }
    assert graph.num_spins == shape[0] * columns and len(steps) == 18
    assert all(abs(a) <= 8 and abs(b) <= 8 for a, b in steps)
