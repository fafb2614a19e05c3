"""The loopback processor as the tests of `DWave` use it."""

import torch

import qsample as qs
from qsample.annealers import DWave
from tests.support.seeds import generator


def connect(server, **settings):
    """A `DWave` on the first solver of a server, impatient."""
    given = {
        "timeout": 20.0,
        "backoff": 0.01,
        "client": {"endpoint": server.endpoint},
        "token": server.token,
    }
    return DWave(**(given | settings))


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
