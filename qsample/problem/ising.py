"""The Ising problem: the one value that stands between every model and every sampler."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qsample.problem import convert
from qsample.problem.edge_products import pulls
from qsample.problem.exact_products import pick, product, times
from qsample.problem.graph import Graph, check_graph
from qsample.support.checks import as_numbers, check_spins, check_tensors
from qsample.support.faces import public

if TYPE_CHECKING:
    import dimod

    from qsample.problem.graph import Clamping


@public("qsample")
@dataclass(frozen=True, eq=False, init=False)
class Ising:
    r"""A Boltzmann law over n spins s in {-1, +1}, or a batch `*B` of laws on one graph.

    $$p(s) \propto e^{-E(s)}, \qquad
      E(s) = \mathrm{offset} + \sum_i h_i s_i + \sum_{(i,j)} J_{ij} s_i s_j$$

    with each pair counted once (dimod's sign). There is no temperature: use `problem.scale(beta)`.

    Args:
        graph: Who is coupled to whom; it decides the layout of `J`.
        h: Fields, `[*B, n]`, floating point.
        J: Couplings, `[*B, *graph.coupling_shape]`; without batch dimensions they are shared by
            the batch.
        offset: Constant of the energy, a float or `[*B]`; 0 by default.

    Raises:
        ValueError: A shape does not fit the graph, or the batch dimensions do not broadcast.
        TypeError: h, J and offset differ in dtype or device, or are not floating point.
    """

    graph: Graph
    h: Tensor
    J: Tensor
    offset: Tensor

    def __init__(self, graph: Graph, h: Tensor, J: Tensor, offset: Tensor | float = 0.0) -> None:
        check_graph(graph)
        check_tensors(h=h, J=J)
        if not h.is_floating_point():
            raise TypeError(f"expected floating-point h; got {h.dtype}")
        offset = offset if isinstance(offset, Tensor) else h.new_tensor(offset)
        for name, t in (("J", J), ("offset", offset)):
            if (t.dtype, t.device) != (h.dtype, h.device):
                raise TypeError(
                    f"expected {name} like h, {h.dtype} on {h.device}; got {t.dtype} on {t.device}"
                )
        n = graph.num_spins
        shape = graph.coupling_shape
        if h.dim() < 1 or h.shape[-1] != n:
            raise ValueError(f"expected h of shape [*, {n}]; got {list(h.shape)}")
        if J.shape[max(J.dim() - len(shape), 0) :] != shape:
            raise ValueError(
                f"expected J of shape [*, {str([*shape])[1:]} ({graph.kind} graph); "
                f"got {list(J.shape)}"
            )
        self.__dict__.update(graph=graph, h=h, J=J, offset=offset)  # frozen hereafter
        try:
            _ = self.batch_shape
        except RuntimeError:
            shapes = f"h {[*h.shape]}, J {[*J.shape]}, offset {[*offset.shape]}"
            raise ValueError(f"batch dimensions of {shapes} do not broadcast") from None

    @classmethod
    def _of(cls, graph: Graph, h: Tensor, J: Tensor, offset: Tensor) -> Ising:
        """A problem of parts that are known to fit."""
        problem = object.__new__(cls)
        problem.__dict__.update(graph=graph, h=h, J=J, offset=offset)
        return problem

    def __repr__(self) -> str:
        batch = list(self.batch_shape)
        return f"Ising({self.graph.kind}, {self.num_spins} spins, batch {batch}, {self.dtype})"

    # ---- other ways in ----------------

    @staticmethod
    def from_edges(
        h: Tensor, edges: Iterable[Sequence[int]] | Tensor, J: Tensor, offset: Tensor | float = 0.0
    ) -> Ising:
        """A sparse problem on a graph made of `edges`.

        Args:
            h: Fields, `[*B, n]`.
            edges: Pairs of spin numbers, `[k, 2]`.
            J: Couplings, `[*B, k]`, in the order of `edges`.
            offset: Constant of the energy, a float or `[*B]`; 0 by default.
        """
        check_tensors(h=h)
        return Ising(Graph.sparse(h.shape[-1], edges), h, J, offset)

    @staticmethod
    def from_dense(h: Tensor, J: Tensor, offset: Tensor | float = 0.0) -> Ising:
        """A problem on the complete graph, E = offset + h.s + s'Js/2.

        Args:
            h: Fields, `[*B, n]`.
            J: Couplings, `[*B, n, n]`, symmetric with a zero diagonal: each pair stands twice.
            offset: Constant of the energy, a float or `[*B]`; 0 by default.

        Raises:
            ValueError: J is not square, not symmetric, or has numbers on its diagonal.
        """
        check_tensors(J=J)
        if J.dim() < 2 or J.shape[-1] != J.shape[-2]:
            raise ValueError(f"expected a square J [*, n, n]; got {list(J.shape)}")
        if (J.diagonal(dim1=-2, dim2=-1) != 0).any():
            raise ValueError(
                "J has a non-zero diagonal: a spin cannot couple to itself "
                "(s_i^2 = 1; add it to offset)"
            )
        if not torch.equal(J, J.mT):
            raise ValueError(
                "J is not symmetric, so each pair's coupling is ambiguous: "
                "pass (J + J.T)/2 if E = s'Js/2 was meant, "
                "or triu(J,1) + triu(J,1).T if J's upper triangle holds each pair once"
            )
        return Ising(Graph.complete(J.shape[-1]), h, J, offset)

    @staticmethod
    def from_bqm(bqm: dimod.BinaryQuadraticModel, dtype: torch.dtype = torch.float64) -> Ising:
        """A dimod BQM of any vartype and labels as a sparse problem.

        Exact up to the rounding of `dtype`.
        """
        return Ising(*convert.from_bqm(bqm, dtype))

    @staticmethod
    def from_qubo(
        Q: Mapping[tuple[Hashable, Hashable], float],
        offset: float = 0.0,
        dtype: torch.dtype = torch.float64,
    ) -> Ising:
        r"""The problem of a QUBO, $E(b) = \mathrm{offset} + \sum Q_{ij} b_i b_j$ with b = (1+s)/2.

        Args:
            Q: Values by pairs of labels; (i,j) and (j,i) are summed, as in dimod.
            offset: Constant of the energy; 0 by default.
            dtype: Floating-point type of the problem; double precision by default.
        """
        return Ising(*convert.from_qubo(Q, offset, dtype))

    # ---- and out ----------------

    def to_bqm(self) -> dimod.BinaryQuadraticModel:
        """This problem (no batch) as a SPIN-valued dimod BQM with the graph's labels."""
        return convert.to_bqm(*self._one())

    def to_qubo(self) -> tuple[dict[tuple[Hashable, Hashable], float], float]:
        """`(Q, offset)` of the same energies in bits b, by s = 2b - 1.

        Q_ij = 4 J_ij, Q_ii = 2 h_i - 2 sum_j J_ij, and the offset is offset + sum J - sum h.
        """
        return convert.to_qubo(*self._one())

    def _one(self) -> convert.Parts:
        """The parts of a single problem in double precision on the CPU; ValueError for a batch."""
        if self.batch_shape:
            raise ValueError(
                f"expected one problem; got a batch {list(self.batch_shape)}: "
                "convert them one by one"
            )
        plain = self.detach().to("cpu", torch.float64)
        return plain.graph, plain.h, plain.J, float(plain.offset)

    # ---- sizes and kinds ----------------

    @property
    def num_spins(self) -> int:
        """Number of spins, n."""
        return self.graph.num_spins

    @property
    def batch_shape(self) -> torch.Size:
        """`*B`, the batch dimensions of h, J and offset broadcast together."""
        dimensions = self.J.dim() - len(self.graph.coupling_shape)
        parts = {self.h.shape[:-1], self.J.shape[:dimensions], self.offset.shape} - {torch.Size()}
        if len(parts) > 1:
            parts.discard(torch.Size([1]))  # such as a shared J of `flat`
        if len(parts) > 1:
            return torch.broadcast_shapes(*parts)  # slow, and seldom needed
        return next(iter(parts), torch.Size())

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of h, J and offset."""
        return self.h.dtype

    @property
    def device(self) -> torch.device:
        """Where h, J and offset lie."""
        return self.h.device

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Ising:
        """This problem on another device or in another floating-point type."""
        return self._map(lambda t: t.to(device=device, dtype=dtype))

    def detach(self) -> Ising:
        """This problem cut from the autograd graph."""
        return Ising._of(self.graph, self.h.detach(), self.J.detach(), self.offset.detach())

    def scale(self, beta: Tensor | float) -> Ising:
        """The problem at inverse temperature `beta`, a float or `[*B]`: h, J, offset times beta."""
        if not isinstance(beta, Tensor):
            if not isinstance(beta, Real):
                raise TypeError(
                    "expected beta as a number or a torch tensor [*B]; "
                    f"got {type(beta).__name__}: use torch.as_tensor"
                )
            number = float(beta)  # a NumPy number would decide the dtype
            return self._map(lambda t: t * number)
        beta = beta.to(self.h)
        self._fits("beta", beta.shape)
        layout = [1] * len(self.graph.coupling_shape)
        h = self.h * beta[..., None]
        J = self.J * beta.reshape(*beta.shape, *layout)
        return Ising(self.graph, h, J, self.offset * beta)

    def without_offset(self) -> Ising:
        """The same law with offset 0: a large one takes the digits of weights and differences."""
        return Ising(self.graph, self.h, self.J, self.offset.new_zeros(self.offset.shape))

    # ---- its batch ----------------

    def flat(self) -> Ising:
        """These problems in one batch dimension: h `[P, n]`, J `[P or 1, *layout]`, offset `[P]`.

        P is the number of problems, 1 for a single one. A J that all share stays one: nothing is
        copied that need not be.
        """
        layout = self.graph.coupling_shape
        dimensions = (self.h.dim() - 1, self.J.dim() - len(layout), self.offset.dim())
        if dimensions == (1, 1, 1) and (
            len(self.h) == len(self.offset) and len(self.J) in (1, len(self.h))
        ):
            return self
        if dimensions == (0, 0, 0):
            return Ising._of(self.graph, self.h[None], self.J[None], self.offset[None])
        batch = self.batch_shape
        count = batch.numel()  # not -1: a J of no edges has no numbers
        h = self.h.expand(*batch, self.num_spins).reshape(count, self.num_spins)
        own = self.J.shape[: self.J.dim() - len(layout)]
        if own.numel() == 1:
            J = self.J.reshape(1, *layout)
        else:
            J = self.J.expand(*batch, *layout).reshape(count, *layout)
        return Ising._of(self.graph, h, J, self.offset.expand(batch).reshape(count))

    def take(self, places: Tensor) -> Ising:
        """The problems at `places` `[P']` (numbers or a mask) of the flat batch, flat again."""
        flat = self.flat()
        J = flat.J[places] if len(flat.J) > 1 else flat.J
        return Ising(self.graph, flat.h[places], J, flat.offset[places])

    def unbind(self) -> list[Ising]:
        """The problems of the batch one by one, each without batch dimensions."""
        flat = self.flat()
        J = flat.J.expand(len(flat.h), *self.graph.coupling_shape)
        return [
            Ising(self.graph, h, coupling, offset)
            for h, coupling, offset in zip(flat.h, J, flat.offset, strict=True)
        ]

    def _map(self, function: Callable[[Tensor], Tensor]) -> Ising:
        return Ising(self.graph, function(self.h), function(self.J), function(self.offset))

    # ---- energies ----------------

    def _as_float(self, spins: Tensor) -> Tensor:
        check_tensors(spins=spins)
        if spins.dim() < 2 or spins.shape[-1] != self.num_spins:
            raise ValueError(
                f"expected spins of shape [*B, R, {self.num_spins}]; got {list(spins.shape)}"
            )
        if spins.dtype in (torch.bool, torch.uint8):
            raise ValueError(
                f"expected spins of -1 and +1; got {spins.dtype}, which holds no -1: "
                "2 * spins.to(torch.int8) - 1 makes spins of bits"
            )
        if not spins.is_floating_point():  # numbers between are means
            check_spins("spins", spins)
        self._fits("spins", spins.shape[:-2])
        return spins.to(self.h)

    def _fits(self, name: str, batch: torch.Size) -> None:
        try:
            torch.broadcast_shapes(self.batch_shape, batch)
        except RuntimeError:
            ours = list(self.batch_shape)
            raise ValueError(
                f"batch {list(batch)} of {name} does not broadcast with the problem's {ours}"
            ) from None

    def energy(self, spins: Int[Tensor, "*batch n"] | Float[Tensor, "*batch n"]) -> Tensor:
        """E of each read, `[*B, R]`, of spins -1 and +1, `[*B, R, n]`.

        Differentiable in h, J and offset, and multilinear in the spins: E of means of independent
        spins is their mean energy.

        Raises:
            ValueError: spins of another shape, bool or uint8, or integers other than -1 and +1.
        """
        s = self._as_float(spins)
        if self.graph.kind == "sparse":
            i, j = self.graph.pairs.to(s.device)
            ends = s.index_select(-1, i) * s.index_select(-1, j)
            quadratic = (ends * self.J[..., None, :]).sum(-1)
        elif self.graph.kind == "bipartite":
            left, right = s.split(self.graph.sizes, -1)
            quadratic = (product(left, self.J) * right).sum(-1)
        else:
            quadratic = (product(s, self.J) * s).sum(-1) / 2
        return self.offset[..., None] + (s * self.h[..., None, :]).sum(-1) + quadratic

    def field(self, spins: Int[Tensor, "*batch n"] | Float[Tensor, "*batch n"]) -> Tensor:
        """Local fields f_i = h_i + sum_j J_ij s_j, `[*B, R, n]`.

        P(s_i = +1 | rest) = sigmoid(-2 f_i).

        Raises:
            ValueError: spins as `energy` refuses them.
        """
        s = self._as_float(spins)
        if self.graph.kind == "sparse":
            pull = pulls(self.graph.pairs.to(s.device), self.J, s)
        elif self.graph.kind == "bipartite":
            left, right = s.split(self.graph.sizes, -1)
            pull = torch.cat([right @ self.J.mT, left @ self.J], -1)
        else:
            pull = s @ self.J
        return self.h[..., None, :] + pull

    # ---- given some spins ----------------

    def clamp(self, index: Tensor | Sequence[int], values: Tensor | Sequence[int]) -> Ising:
        """The problem of the remaining spins, given the spins `index` `[c]` at `values` `[*B', c]`.

        Its energies are those of the whole problem: `clamp(...).energy(free)` equals `energy` of
        the joined spins. The fields become `[*B', n']`; J is shared by the batch. The remaining
        spins keep their order and labels.

        Raises:
            ValueError: `index` names a spin twice or one that is none, `values` are not -1 and +1
                or of another shape.
        """
        rest = self.graph.without(as_numbers("index", index))
        values = as_numbers("values", values)
        count = len(rest.clamped)
        if values.dim() < 1 or values.shape[-1] != count:
            raise ValueError(f"expected values of shape [*, {count}]; got {list(values.shape)}")
        values = values.to(self.h)
        check_spins("clamped values", values)
        self._fits("values", values.shape[:-1])
        return self.given(rest, values)

    def given(self, rest: Clamping, values: Tensor) -> Ising:
        """`clamp` without its checks, differentiable in the values.

        Energies are multilinear in the spins, so real values between -1 and +1 have a meaning:
        means.

        Args:
            rest: What `Graph.without` leaves of this problem's graph.
            values: Values of the clamped spins, `[*B', c]`, of h's dtype and device.
        """
        h = self.h[..., rest.free.to(self.device)]
        own = self.h[..., rest.clamped.to(self.device)]
        offset = self.offset + (values * own).sum(-1)
        given = {
            "sparse": self._given_sparse,
            "bipartite": self._given_bipartite,
            "complete": self._given_complete,
        }
        return given[self.graph.kind](rest, values, h, offset)

    def _given_sparse(self, rest: Clamping, v: Tensor, h: Tensor, offset: Tensor) -> Ising:
        # an edge with one clamped end is a field on the other
        edge, free_end, clamped_end = rest.cut.to(self.device)
        pull = self.J[..., edge] * v[..., clamped_end]
        batch = torch.broadcast_shapes(h.shape[:-1], pull.shape[:-1])
        h = h.expand(*batch, -1).index_add(-1, free_end, pull.expand(*batch, -1))
        # one with two is a constant
        edge, first, second = rest.inside.to(self.device)
        offset = offset + (self.J[..., edge] * v[..., first] * v[..., second]).sum(-1)
        return Ising(rest.graph, h, self.J[..., rest.kept.to(self.device)], offset)

    def _given_complete(self, rest: Clamping, v: Tensor, h: Tensor, offset: Tensor) -> Ising:
        free = rest.free.to(self.device)
        clamped = rest.clamped.to(self.device)
        J = self.J[..., free, :]
        h = h + (J[..., clamped] @ v[..., None])[..., 0]
        inside = self.J[..., clamped, :][..., clamped]
        offset = offset + (v * (inside @ v[..., None])[..., 0]).sum(-1) / 2
        return Ising(rest.graph, h, J[..., free], offset)

    def _given_bipartite(self, rest: Clamping, v: Tensor, h: Tensor, offset: Tensor) -> Ising:
        free = rest.free.to(self.device)
        clamped = rest.clamped.to(self.device)
        n = self.graph.sizes[0]
        rows = free[free < n]
        columns = free[free >= n] - n
        on_left = clamped < n
        left = clamped[on_left]
        right = clamped[~on_left] - n
        v_left = v[..., on_left]
        v_right = v[..., ~on_left]
        from_right = times(v_right, pick(self.J, rows, right, n).mT)
        from_left = times(v_left, pick(self.J, left, columns, n))
        h = h + torch.cat([from_right, from_left], -1)
        inside = (times(v_left, pick(self.J, left, right, n)) * v_right).sum(-1)
        return Ising(rest.graph, h, pick(self.J, rows, columns, n), offset + inside)
