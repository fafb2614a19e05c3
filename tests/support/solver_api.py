"""The loopback processor as the tests of `DWave` use it."""

import os

import pytest
import torch

import qsample as qs
from qsample.annealers import DWave


@pytest.fixture(scope="module", autouse=True)
def isolated():
    """No configuration of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("DWAVE_")]:
            patch.delenv(name)
        patch.setenv("DWAVE_CONFIG_FILE", os.devnull)
        patch.setenv("DWAVE_CACHE_ENABLED", "0")
        yield


def connect(server, **settings):
    """A `DWave` on the first solver of a server, impatient."""
    given = {
        "timeout": 20.0,
        "backoff": 0.01,
        "client": {"endpoint": server.endpoint},
        "token": server.token,
    }
    return DWave(**(given | settings))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def whole(server, name, scale, bias=0.0, seed=0):
    """Random numbers on all qubits and couplers of a solver, labelled by the qubits."""
    solver = server._routes.solvers[name]
    graph = qs.Graph.sparse(
        len(solver.qubits), torch.from_numpy(solver.ends), solver.qubits.tolist()
    )
    g = generator(seed)
    h = bias * torch.randn(graph.num_spins, generator=g, dtype=torch.float64)
    return qs.Ising(
        graph, h, scale * torch.randn(graph.num_edges, generator=g, dtype=torch.float64)
    )


def cell(batch=(), scale=0.5, seed=0):
    """K_4,4 on the qubits of one Chimera cell."""
    graph = qs.Graph.sparse(8, [(a, b) for a in range(4) for b in range(4, 8)])
    g = generator(seed)
    h = scale * torch.randn(*batch, 8, generator=g, dtype=torch.float64)
    return qs.Ising(graph, h, scale * torch.randn(16, generator=g, dtype=torch.float64))
