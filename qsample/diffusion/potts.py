"""Sites of many states: the Potts problem, and block Gibbs sampling of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from qsample.problem.graph import Graph, check_graph
from qsample.sampling.random import Draws, Generators, draw_seeds
from qsample.sampling.sampler import Sampler
from qsample.support.checks import check_tensors, is_whole, whole_settings
from qsample.support.faces import public
from qsample.support.transforms import uncompiled

TINY = torch.finfo(torch.float64).tiny  # the probability of a state that cannot be
Incident = tuple[Tensor, Tensor, Tensor, Tensor]


@public("qsample.diffusion")
@dataclass(frozen=True, eq=False)
class Potts:
    r"""A Boltzmann law of n sites of S states each, or a batch `*B` of laws on one graph.

    $$p(x) \propto e^{-E(x)}, \qquad
      E(x) = \sum_i h_i(x_i) + \sum_{(i,j)} J_{ij}(x_i, x_j), \quad x_i \in \{0..S-1\}$$

    with each pair counted once, i < j. In the one-hot code of a site, one of S bits, both sums are
    an Ising energy; the S bits of a site are a block that is drawn at once.

    Args:
        graph: which sites are coupled, one spin per site.
        h: costs of the states, `[*B, n, S]`, floating point.
        J: costs of pairs of states, `[*B, edges, S, S]` in the order of `graph.edges`, the state of
            i first; without batch dimensions they are shared by the batch.

    Raises:
        ValueError: shapes that do not fit the graph or one another.
        TypeError: a graph that is none, h and J that are no floating-point tensors of one kind.
    """

    graph: Graph
    h: Tensor
    J: Tensor

    def __post_init__(self) -> None:
        check_graph(self.graph)
        check_tensors(h=self.h, J=self.J)
        if not self.h.is_floating_point() or self.J.dtype != self.h.dtype:
            raise TypeError(f"expected h and J of one float; got {self.h.dtype}, {self.J.dtype}")
        n = self.graph.num_spins
        if self.h.dim() < 2 or self.h.shape[-2] != n:
            raise ValueError(f"expected h of shape [*, {n}, S]; got {list(self.h.shape)}")
        S = self.h.shape[-1]
        shape = (self.graph.num_edges, S, S)
        batch = self.h.shape[:-2]
        if self.J.shape not in (shape, (*batch, *shape)):
            raise ValueError(
                f"expected J of shape {list(shape)} or {[*batch, *shape]}; got {list(self.J.shape)}"
            )

    @property
    def states(self) -> int:
        """States of a site, S."""
        return self.h.shape[-1]

    def detach(self) -> Potts:
        """This problem cut from the autograd graph."""
        return Potts(self.graph, self.h.detach(), self.J.detach())

    def given(self, known: Tensor) -> Potts:
        """The problem given the states of some sites, which stay in it: a clamp is a field.

        Their other states cost as much as a probability of 1e-308 does.

        Args:
            known: states `[*B, n]`, int64, -1 where a site is free; other sites in each row.
        """
        cost = self.h.new_full((), -torch.tensor(TINY, dtype=torch.float64).log().item())
        fixed = torch.where(one_hot(known.clamp_min(0), self.states) == 1, 0.0, cost)
        h = torch.where((known >= 0)[..., None], fixed.to(self.h), self.h)
        return Potts(self.graph, h, self.J)

    def of_states(self, states: int) -> Potts:
        """The problem of sites that are in one of the first `states` states."""
        return Potts(self.graph, self.h[..., :states], self.J[..., :states, :states])

    def energy(self, x: Tensor) -> Tensor:
        """E of each read, `[*B, R]`, of states `[*B, R, n]`; differentiable in h and J."""
        i, j = self.graph.edges.to(x.device)
        alone = self.h.unsqueeze(-3).expand(*x.shape, -1).gather(-1, x[..., None])
        pairs = self.J.unsqueeze(-4).expand(*x.shape[:-1], *self.J.shape[-3:])
        of_first = pairs.take_along_dim(x[..., i, None, None], -2)
        both = of_first.take_along_dim(x[..., j, None, None], -1)
        return alone.sum((-1, -2)) + both.sum((-1, -2, -3))

    def field(self, x: Tensor) -> Tensor:
        """Costs of every state of a site, the others given: `[*B, R, n, S]`.

        P(x_i = c | rest) = softmax(-field)_c. Differentiable in h and J.

        Args:
            x: states `[*B, R, n]`, int64.
        """
        field = self.h.unsqueeze(-3).expand(*x.shape, -1)
        both_ways = torch.cat([self.J, self.J.mT], -3)
        owner, neighbour = torch.cat([self.graph.edges, self.graph.edges.flip(0)], 1).to(x.device)
        return field.index_add(-2, owner, _pull(both_ways, x[..., neighbour]))


def _pull(both_ways: Tensor, neighbours: Tensor) -> Tensor:
    """Costs of the owner's states, `[*B, R, e, S]`, of its neighbour's state on every edge.

    Args:
        both_ways: J `[*B, e, S (owner), S (neighbour)]`.
        neighbours: states `[*B, R, e]`.
    """
    J = both_ways.unsqueeze(-4).expand(*neighbours.shape[:-1], *both_ways.shape[-3:])
    return J.take_along_dim(neighbours[..., None, None], -1)[..., 0]


# ---- drawing ----------------


@public("qsample.diffusion")
@dataclass(frozen=True)
class PottsGibbs:
    """Block Gibbs sampling: a site's states at once, all sites of a colour at once.

    A sweep goes through the colours of the graph. Given the sites of other colours, those of one
    are independent, and each is drawn from P(x_i = c | rest) itself. Reads are chains at the
    target: asymptotically exact. In one-hot bits this is Gibbs sampling by blocks of S bits, of
    which exactly one is set.

    Args:
        sweeps: sweeps of each read.

    Raises:
        ValueError: sweeps < 1.
    """

    sweeps: int = 100

    def __post_init__(self) -> None:
        whole_settings(self, sweeps=1)

    @uncompiled
    @torch.no_grad()
    def sample(
        self,
        problem: Potts,
        num: int = 1,
        *,
        initial: Tensor | None = None,
        generator: Generators | None = None,
    ) -> Tensor:
        """Reads of each problem, states `[*B, num, n]` int64.

        Args:
            problem: one problem or a batch.
            num: reads of each.
            initial: where the chains begin, `[*B, num, n]`; draws without couplings by default.
            generator: one, or a list with one for each of the `*B` problems, which then draws what
                it would draw alone. None is torch's default.

        Raises:
            ValueError: num < 1, an `initial` of another shape, numbers that are not finite.
            TypeError: what is no Potts problem.
        """
        if not isinstance(problem, Potts):
            raise TypeError(
                f"expected a Potts problem, such as Potts(graph, h, J); got "
                f"{type(problem).__name__}: Gibbs(sweeps=100) draws from an Ising problem"
            )
        if not is_whole(num) or num < 1:
            raise ValueError(f"expected num >= 1 reads; got {num!r}")
        if not (problem.h.isfinite().all() and problem.J.isfinite().all()):
            raise ValueError("expected finite h and J; got some that are not")
        n = problem.graph.num_spins
        S = problem.states
        batch = problem.h.shape[:-2]
        h = problem.h.detach().reshape(-1, 1, n, S)
        J = problem.J.detach()
        if J.dim() > 3:
            J = J.reshape(-1, *J.shape[-3:])
        both_ways = torch.cat([J, J.mT], -3)
        draws = Draws(draw_seeds(generator, batch), h.device)
        if initial is None:
            x = categories(h.expand(-1, num, -1, -1), draws)
        elif initial.shape != (*batch, num, n):
            raise ValueError(
                f"expected initial of shape {[*batch, num, n]}; got {list(initial.shape)}"
            )
        else:
            x = initial.reshape(-1, num, n).clone()
        for _ in range(self.sweeps):
            for sites, edge, neighbour, place in _incident(problem.graph):
                field = h[:, :, sites].expand(-1, num, -1, -1)
                pull = _pull(both_ways[..., edge, :, :], x[..., neighbour])
                x[..., sites] = categories(field.index_add(-2, place, pull), draws)
        return x.reshape(*batch, num, n)


def check_is_potts_sampler(sampler: object) -> None:
    """TypeError for what does not draw Potts problems: samplers of Ising problems among them."""
    ising = isinstance(sampler, Sampler)
    if ising or isinstance(sampler, type) or not hasattr(sampler, "sample"):
        why = ", which draws Ising problems" if ising else ""
        raise TypeError(
            "expected a sampler of Potts problems, such as PottsGibbs(sweeps=100); got "
            f"{sampler!r}{why}"
        )


def categories(field: Tensor, draws: Draws) -> Tensor:
    """States `[P, R, m]` with probabilities softmax(-field), of fields `[P, R, m, S]`."""
    weight = (-field.double()).softmax(-1).cumsum(-1)
    level = draws.uniform(*field.shape[1:-1])[..., None] * weight[..., -1:]
    return (weight <= level).sum(-1).clamp_max(field.shape[-1] - 1)


def _incident(graph: Graph) -> list[Incident]:
    """What a sweep asks of each colour, computed once per graph.

    Its sites; of every edge of theirs, counted from both ends: the number (those of the second
    ends follow), the neighbour, and the place of the owner among the sites.
    """

    def make() -> list[Incident]:
        ends = torch.cat([graph.edges, graph.edges.flip(0)], 1)
        parts: list[Incident] = []
        for sites in graph.colours:
            place = torch.full((graph.num_spins,), -1)
            place[sites] = torch.arange(len(sites))
            edge = (place[ends[0]] >= 0).nonzero()[:, 0]
            parts.append((sites, edge, ends[1, edge], place[ends[0, edge]]))
        return parts

    return graph.cached("potts colours", make)
