"""Files name faces only: a pickle or a saved pipeline of today loads after any later move."""

import importlib
import inspect
import io
import json
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import qsample as qs
from qsample.annealers import Gibbs, ParallelTempering, PopulationAnnealing
from qsample.diffusion import (
    Absorbing,
    Potts,
    PottsGibbs,
    Uniform,
    UniformBits,
    cosine_times,
    log_times,
)
from qsample.models import AdaptivePenalty, DenoisingThermodynamicModel, IsingCopula, PottsCopula
from qsample.sampling import Estimate
from qsample.support.faces import names_of
from tests.support.exact import KINDS, a_graph, a_problem
from tests.support.models import MODELS
from tests.support.neural import KERNELS
from tests.support.samplers import SAMPLERS
from tests.support.seeds import generator

ROOT = Path(__file__).parents[2]
FACES = [
    "qsample",
    "qsample.models",
    "qsample.annealers",
    "qsample.annealers.dwave",
    "qsample.diffusion",
    "qsample.sampling",
    "qsample.sklearn",
    "qsample.testing",
    "qsample.testing.sapi",
    "qsample.data",
    "qsample.metrics",
]
STUBS = {face: ROOT / f"{face.replace('.', '/')}/__init__.pyi" for face in FACES[:-1]}
SHOWN = [(face, name) for face, stub in STUBS.items() for name in names_of(stub)]
# The lines of "Public names" of the design: scripts outside of the repository use them.
PUBLIC = """
import qsample as qs
from qsample import (
    ContrastiveDivergence, Estimate, Exactness, Graph, Ising, Sampler, Samples, Settings,
    cd_loss, diagnose, effective_beta, fit, load_run, log_likelihood, log_partition,
)
from qsample.models import BernoulliRBM, BoltzmannMachine
from qsample.annealers import AsDimod, Corrected, DimodAnnealer, Exact, Gibbs, Neal
from qsample.annealers import SimulatedAnnealing
from qsample.annealers import ParallelTempering, PopulationAnnealing, AnnealedImportance, DWave
from qsample.sampling import Exactness, Generators, Sampler, Samples
from qsample.sampling import check_request, draw_seeds, mix
from qsample.testing import check_sampler
qs.Graph.sparse, qs.Graph.bipartite, qs.Graph.complete, qs.Graph.from_networkx
qs.Ising.from_edges, qs.Ising.from_dense, qs.Ising.from_bqm, qs.Ising.from_qubo
qs.Ising.energy, qs.Ising.field, qs.Ising.clamp, qs.Ising.scale, qs.Ising.to_bqm, qs.Ising.to_qubo
qs.Ising.to, qs.Samples.mean, qs.Samples.ess, qs.Samples.resample, qs.Samples.to_sampleset
qs.testing.check_sampler, qs.data, qs.metrics
"""


def some_samples() -> dict[str, qs.Samples]:
    """Answers of a chain, of a ladder that carries replicas on, and with weights."""
    problem = a_problem(a_graph("sparse"))
    samplers = {
        "chains": Gibbs(2),
        "a ladder": ParallelTempering(2, 3),
        "weights": PopulationAnnealing(5, 1000),
    }
    return {name: s.sample(problem, 4, generator=generator()) for name, s in samplers.items()}


def things() -> dict[str, Any]:
    """What a user may pickle, by name."""
    graph = a_graph("complete")
    picklable: dict[str, Any] = {f"sampler, {name}": row.quick for name, row in SAMPLERS.items()}
    picklable |= {
        f"sampler, {name}, right": row.right for name, row in SAMPLERS.items() if row.right
    }
    picklable |= {f"model, {name}": make() for name, make in MODELS.items()}
    picklable |= {
        f"kernel, {name}": kernel
        for name, kernel in KERNELS.items()
        if "lambda" not in repr(kernel)
    }
    picklable |= {f"graph, {kind}": a_graph(kind) for kind in KINDS}
    picklable |= {f"problem, {kind}": a_problem(a_graph(kind)) for kind in KINDS}
    picklable |= {f"samples, {name}": samples for name, samples in some_samples().items()}
    return picklable | {
        "model, thermodynamic": DenoisingThermodynamicModel(graph, 3, 2),
        "model, copula": IsingCopula(torch.nn.Linear(5, 5), graph, UniformBits(log_times(4))),
        "model, tokens": PottsCopula(torch.nn.Linear(5, 5), graph, Absorbing(log_times(4))),
        "penalty": AdaptivePenalty(),
        "estimate": Estimate(1.0, 0.1),
        "settings": qs.Settings(),
        "process, bits": UniformBits(log_times(4)),
        "process, categories": Uniform(cosine_times(4)),
        "process, masks": Absorbing(cosine_times(4)),
        "problem, tokens": Potts(graph, torch.zeros(5, 3), torch.zeros(10, 3, 3)),
        "sampler of tokens": PottsGibbs(),
        "surrogate": partial(qs.diffusion.regression, flips=0.5),
        "exactness": qs.Exactness.EXACT,
        "contract, a case": qs.testing.Case("a case", a_problem(graph)),
        "contract, verdicts": qs.testing.Verdicts([qs.testing.Verdict("a case", 0.5)]),
    }


THINGS = things()


class Names(pickle.Unpickler):
    """An unpickler that keeps what it is asked to import."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self.asked: list[tuple[str, str]] = []

    def find_class(self, module: str, name: str) -> Any:
        self.asked.append((module, name))
        return super().find_class(module, name)


@pytest.mark.parametrize("name", THINGS)
def test_pickles_name_faces_only(name):
    reader = Names(pickle.dumps(THINGS[name]))
    reader.load()
    ours = {module for module, _ in reader.asked if module.split(".")[0] == "qsample"}
    assert ours <= set(FACES), [pair for pair in reader.asked if pair[0] in ours - set(FACES)]


def strings(content: Any) -> list[str]:
    """Every string in a JSON value."""
    if isinstance(content, str):
        return [content]
    if isinstance(content, dict):
        content = list(content.values())
    return [text for item in content for text in strings(item)] if isinstance(content, list) else []


def test_saved_pipelines_name_faces_only(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    blocks = {"block_out_channels": (8,), "norm_num_groups": 4, "layers_per_block": 1}
    ends = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    unet = diffusers.UNet2DModel(sample_size=4, in_channels=1, out_channels=1, **blocks, **ends)
    scheduler = qs.diffusion.IsingScheduler(sampler_settings={"sweeps": 5})
    qs.diffusion.IsingDiffusionPipeline(unet, scheduler).save_pretrained(tmp_path)
    named = []
    for path in tmp_path.rglob("*.json"):
        named += [s for s in strings(json.loads(path.read_text())) if s.split(".")[0] == "qsample"]
    assert "qsample.diffusion" in named
    assert set(named) <= set(FACES)


@pytest.mark.parametrize(("face", "name"), SHOWN)
def test_a_public_name_exists_and_its_module_is_a_face_that_shows_it(face, name):
    value = getattr(importlib.import_module(face), name)
    assert name in importlib.import_module(face).__all__
    if isinstance(value, type) or inspect.isfunction(value):
        assert value.__module__ in [shown for shown, other in SHOWN if other == name]


def test_every_name_of_the_design_is_there():
    exec(PUBLIC, {})
