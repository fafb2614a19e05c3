r"""Bits of x_0 that are known: a reverse step given them, for inpainting and conditions.

$$P(x_{k-1} | x_k, x_0^K) :\quad x_{k-1}^K \sim q(x_{k-1}^K | x_k^K, x_0^K), \qquad
  x_{k-1}^U \sim P_k(x_{k-1}^U \,|\, x_k, x_{k-1}^K)$$

with K the known sites and U the others. The first is the forward process given both ends, a product
over sites; the second the step's own Boltzmann law with the spins K clamped, which is an Ising
problem again: a clamp is a field.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from qsample.diffusion.process import UniformBits
from qsample.problem.ising import Ising
from qsample.sampling.random import Generators
from qsample.sampling.samples import Exactness, Samples
from qsample.support.checks import check_spins, check_tensors


@dataclass(frozen=True, eq=False)
class Known:
    """Bits of x_0 that are known, at the same sites in every row.

    Args:
        sites: numbers of the known sites, `[c]`, ascending.
        values: x_0, spins `[B, n]` in double precision, 0 where it is not known.
    """

    sites: Tensor
    values: Tensor

    @staticmethod
    def of(known: Tensor, num: int, n: int, device: torch.device | str = "cpu") -> Known | None:
        """Known bits as a user gives them: spins where they are known, 0 elsewhere.

        None where no bit is known.

        Args:
            known: `[n]`, or `[num, n]` with the same zeros in every row.
            num: number of images.
            n: bits of an image.
            device: where the images are.

        Raises:
            ValueError: another shape, numbers other than -1, 0 and +1, rows with other zeros.
            TypeError: no tensor.
        """
        check_tensors(known=known)
        if known.shape not in ((n,), (num, n)):
            raise ValueError(
                f"expected known of shape [{n}] or [{num}, {n}], 0 where a bit is not known; "
                f"got {list(known.shape)}"
            )
        rows = known.to(device, torch.float64).expand(num, n)
        shown = rows[0] != 0
        if not torch.equal(rows != 0, shown.expand(num, n)):
            raise ValueError(
                "expected known bits at the same sites in every row: call once for each mask"
            )
        sites = shown.nonzero()[:, 0]
        remedy = "2 * bits - 1 makes spins of bits, and 0 is a bit that is not known"
        check_spins("known bits", rows[:, sites], remedy)
        return Known(sites, rows) if len(sites) else None

    def start(self, process: UniformBits, x: Tensor, generator: Generators | None) -> Tensor:
        """Rows x `[B, n]` of x_T with draws of q(x_T | x_0) at the known sites.

        Args:
            process: the forward process.
            x: spins `[B, n]`, which stay at the other sites.
            generator: one, or a list with one per row.
        """
        known = self.values != 0
        x_0 = torch.where(known, self.values, 1.0)
        last = process.noise(x_0, process.steps, generator=generator)
        return torch.where(known, last.to(x), x)

    def before(self, process: UniformBits, x: Tensor, k: int, uniform: Tensor) -> Tensor:
        """Draws of q(x_{k-1} | x_k, x_0) at the known sites, spins `[B, c]`; x_0 itself at k = 1.

        Args:
            process: the forward process.
            x: x_k, spins `[B, n]`.
            k: step of x.
            uniform: numbers in (0, 1), `[B, c]`.
        """
        if k == 1:
            return self.values[:, self.sites].to(torch.int8)
        h = process.posterior_fields(x.double(), self.values, k)[:, self.sites]
        return torch.where(uniform < (-2 * h).sigmoid(), 1, -1).to(torch.int8)

    def draw(self, problem: Ising, bits: Tensor, draw: Callable[[Ising], Samples]) -> Samples:
        """A read of each problem given spins at the known sites, spins `[B, 1, n]`.

        Args:
            problem: the step's problems `[B]`.
            bits: x_{k-1} at the known sites, spins `[B, c]`.
            draw: draws a read of each problem of the other spins.
        """
        spins = bits.new_empty(len(bits), 1, problem.num_spins)
        spins[:, 0, self.sites] = bits
        if len(self.sites) == problem.num_spins:  # nothing is left to draw
            return Samples(spins, problem.energy(spins), None, Exactness.EXACT)
        rest = problem.clamp(self.sites, bits)
        samples = draw(rest)
        spins[:, :, problem.graph.without(self.sites).free.to(spins.device)] = samples.spins
        return Samples(spins, samples.energy, None, samples.exactness, samples.info)
