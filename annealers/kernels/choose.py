"""Which kernel runs which graph: on the CPU, and elsewhere."""

from __future__ import annotations

from torch import Tensor

from qsample.annealers.kernels.native import Native, sweep_bipartite, sweep_dense, sweep_sparse
from qsample.annealers.kernels.streams import Streams
from qsample.annealers.kernels.torch_bipartite import Bipartite
from qsample.annealers.kernels.torch_dense import Dense
from qsample.annealers.kernels.torch_sparse import Chromatic
from qsample.annealers.kernels.update import Kernel, Precision, is_full
from qsample.problem.graph import Graph
from qsample.problem.ising import Ising

LARGEST_DENSE = 4096  # spins of a sparse graph whose couplings torch may hold as a matrix


def native_kernel(problem: Ising, precision: Precision = "full") -> Native | None:
    """The native kernel of a problem, or None: other devices and bfloat16 are torch's.

    | graph | kernel | fields |
    |---|---|---|
    | bipartite | `sweep_bipartite` | sums of a few couplings are looked up at once |
    | complete, or half of all pairs | `sweep_dense` | kept: a flip adds a row of J |
    | sparse | `sweep_sparse` | lanes of replicas add them up |

    Args:
        problem: any problems of one graph.
        precision: number format of the fields; "fixed16" is another name of "full".
    """
    graph = problem.graph
    if not is_full(precision) or problem.device.type != "cpu":
        return None
    if graph.kind == "bipartite":
        return sweep_bipartite
    return sweep_dense if _is_dense(graph) else sweep_sparse


def torch_kernel(
    problem: Ising, spins: Tensor, streams: Streams, precision: Precision = "full"
) -> Kernel:
    """The torch kernel of a problem, started at `spins`: for other devices, and double precision.

    | graph | kernel | a sweep costs |
    |---|---|---|
    | bipartite | `Bipartite`: two matrix products | R n m |
    | sparse | `Chromatic`: colour by colour, neighbours gathered | R x edges |
    | complete, or nearly | `Dense`: spin by spin, fields cached | R n^2 |

    A sparse sweep takes as many steps as the largest degrees of its colours add up to; where these
    are more than spins (of up to 4096) it is nearly complete.

    Args:
        problem: P problems, as `Ising.flat` gives them, in the dtype to work in.
        spins: `[P, R, n]` of -1 and +1.
        streams: randomness, one stream per problem.
        precision: "bfloat16" rounds the products of a bipartite problem; "fixed16" is another name
            of "full".

    Raises:
        ValueError: "bfloat16" for a graph that is not bipartite.
    """
    graph = problem.graph
    if graph.kind == "bipartite":
        return Bipartite(problem, spins, streams, precision)
    if not is_full(precision):
        raise ValueError(
            f"precision {precision!r} is for bipartite problems; this one is {graph.kind}: use "
            "'full'"
        )
    if graph.kind == "complete":
        return Dense(problem, spins, streams)
    steps = sum(int(graph.degree[colour].max()) for colour in graph.colours)
    if steps > graph.num_spins and graph.num_spins <= LARGEST_DENSE:
        return Dense(problem, spins, streams)
    return Chromatic(problem, spins, streams)


def _is_dense(graph: Graph) -> bool:
    """Whether half of all pairs are coupled."""
    return graph.kind == "complete" or 4 * graph.num_edges > graph.num_spins**2
