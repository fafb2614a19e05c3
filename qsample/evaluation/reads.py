"""Reads in the form that tests take, and what a test finds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from qsample.problem.ising import Ising

LEAST = 8.0  # expected reads that a cell or a value needs to be tested
CHUNK = 1 << 22  # numbers in memory at once


class Finding(NamedTuple):
    """The result of one test.

    Attributes:
        name: statistic that was tested.
        p_value: chance of such reads or stranger ones from a right sampler.
        text: values of the statistic, in words.
    """

    name: str
    p_value: float
    text: str = ""


@dataclass(frozen=True)
class Reads:
    """Reads of one problem in the form that tests take.

    Attributes:
        spins: `[R, n]` float32.
        energy: `[R]` float64, recomputed.
        score: derivative of the log pseudo-likelihood in beta, at 1, `[R]`; of mean 0 under the
            law.
        weight: `[R]` float64, of sum 1; None for equal ones.
        cluster: labels `[R]`; reads of one label are correlated. None where all are independent.
    """

    spins: Tensor
    energy: Tensor
    score: Tensor
    weight: Tensor | None = None
    cluster: Tensor | None = None

    @staticmethod
    def of(
        problem: Ising, spins: Tensor, weight: Tensor | None = None, cluster: Tensor | None = None
    ) -> Reads:
        """Reads with their energies and scores computed.

        Args:
            problem: one problem in double precision.
            spins: reads `[R, n]` of -1 and +1.
            weight: weights `[R]` of sum 1; None for equal ones.
            cluster: labels `[R]` of correlated reads; None where all are independent.
        """
        size = max(1, problem.graph.num_edges + problem.num_spins)
        energies = []
        scores = []
        for chunk in spins.split(max(1, CHUNK // size)):
            s = chunk.to(problem.h)
            a = -2 * s * problem.field(s)
            energies.append(problem.energy(s))
            scores.append((a * (-a).sigmoid()).sum(-1))
        return Reads(spins.float(), torch.cat(energies), torch.cat(scores), weight, cluster)

    def __len__(self) -> int:
        return len(self.energy)

    @property
    def independent(self) -> bool:
        """Whether reads are independent and equal in weight, so that they can be counted."""
        return self.weight is None and self.cluster is None

    @property
    def shares(self) -> Tensor:
        """The weights `[R]`, equal ones too."""
        if self.weight is not None:
            return self.weight
        return torch.full_like(self.energy, 1 / len(self))

    def by_cluster(self, values: Tensor) -> Tensor:
        """Sums of `values` [R, q] over clusters, `[K, q]`."""
        if self.cluster is None:
            return values
        _, label = self.cluster.unique(return_inverse=True)
        return values.new_zeros(int(label.max()) + 1, values.shape[1]).index_add_(0, label, values)

    @property
    def effective(self) -> float:
        """Independent reads that these are worth at least."""
        return 1 / float(self.by_cluster(self.shares[:, None]).square().sum())

    def take(self, index: Tensor) -> Reads:
        """The reads at the places `index`, with their weights."""
        weight = None
        if self.weight is not None:
            weight = self.weight[index] / self.weight[index].sum()
        cluster = None if self.cluster is None else self.cluster[index]
        return Reads(self.spins[index], self.energy[index], self.score[index], weight, cluster)

    def countable(self, generator: torch.Generator) -> Reads | None:
        """Independent reads of equal weight among these; None where there is no way to choose them.

        Of clusters of one size (blocks of a chain) a random member each. Of weighted reads, those
        that rejection keeps, with probability w / max w. Families of different sizes carry weight
        in their size: no choice is fair.
        """
        reads = self
        if reads.cluster is not None:
            order = reads.cluster.argsort(stable=True)
            size = reads.cluster.unique(return_counts=True)[1]
            if (size != size[0]).any():
                return None
            members = order.reshape(-1, int(size[0]))
            shape = (len(members), 1)
            pick = torch.randint(members.shape[1], shape, generator=generator).to(members.device)
            index = members.gather(1, pick)[:, 0].sort().values
            reads = replace(reads.take(index), cluster=None)
        if reads.weight is not None:
            u = torch.rand(len(reads), generator=generator, dtype=torch.float64)
            accepted = u.to(reads.weight.device) < reads.weight / reads.weight.max()
            reads = replace(reads.take(accepted.nonzero()[:, 0]), weight=None)
        return reads


def student(z: float, freedom: float) -> float:
    """Two-sided p-value of Student's t; 1 below two degrees of freedom, where it says nothing."""
    from scipy.stats import t

    return 2 * float(t.sf(abs(z), freedom)) if freedom >= 2 else 1.0
