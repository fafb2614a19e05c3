"""The native sweep once more, one spin at a time in NumPy: the same numbers, the same roundings, nothing shared."""

from collections.abc import Sequence

import numpy as np
import torch

from qsample import Ising

LOW = np.uint64(2**32 - 1)
GOLDEN = 0x9E3779B97F4A7C15


def _u64(x) -> np.ndarray:
    return np.asarray(x, dtype=np.uint64)


def mix(z) -> np.ndarray:
    """The finaliser of SplitMix64."""
    with np.errstate(over="ignore"):
        z = _u64(z)
        z = (z ^ (z >> _u64(30))) * _u64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> _u64(27))) * _u64(0x94D049BB133111EB)
        return z ^ (z >> _u64(31))


def random_bits(seed: int, replicas, passes, spins) -> np.ndarray:
    """32 random bits by replica and (pass, spin), which broadcast."""
    with np.errstate(over="ignore"):
        lane = mix(
            mix(_u64(seed) + _u64(GOLDEN)) + (_u64(replicas) + _u64(1)) * _u64(0xD1B54A32D192ED03)
        )
        visit = mix((_u64(passes) << _u64(32) | _u64(spins)) + _u64(GOLDEN))
        x = ((lane & LOW) + (visit & LOW)) & LOW
        x = ((x ^ (x >> _u64(16))) * _u64(0x7FEB352D)) & LOW
        x = ((x ^ (x >> _u64(15))) + ((lane ^ visit) >> _u64(32))) & LOW
        x = ((x ^ (x >> _u64(16))) * _u64(0x846CA68B)) & LOW
        return (((x ^ (x >> _u64(13))) * _u64(0xC2B2AE35)) & LOW).astype(np.uint32)


def multiply_add(a, b, c, fused: bool) -> np.ndarray:
    """In one rounding (but for ties that doubles cannot see), or two."""
    a, b, c = (np.asarray(x, dtype=np.float64 if fused else np.float32) for x in (a, b, c))
    return (a * b + c).astype(np.float32)


def power(x: np.ndarray, fused: bool) -> np.ndarray:
    """2^x."""
    x = x.clip(np.float32(-126), np.float32(126))
    shifted = x + np.float32(12582912)
    r = x - (shifted - np.float32(12582912))
    p = np.full_like(r, 1.3264715e-3)
    for c in (9.6715083e-3, 5.5507336e-2, 2.4022242e-1, 6.9314700e-1, 1.0):
        p = multiply_add(p, r, np.float32(c), fused)
    with np.errstate(over="ignore"):
        return (p.view(np.uint32) + (shifted.view(np.uint32) << np.uint32(23))).view(np.float32)


class Fixed16:
    """Probabilities and fields in 16 bits."""

    REACH = 11.8  # |logit| = REACH y / 2**16
    UP_TO = 32766

    def __init__(self, problem: Ising, rule: str) -> None:
        self.rule, graph = rule, problem.graph
        h, J = problem.h.numpy(), problem.J.numpy()
        push = np.zeros(graph.num_spins)
        for e, (i, j) in enumerate(graph.pairs.T.tolist()):
            push[i] += abs(float(J[e]))
            push[j] += abs(float(J[e]))
        span = max((push + np.abs(h)).max(), 1.5 * push.max())
        self.unit = np.float32(
            span / (self.UP_TO - int(graph.degree.max()) / 4) if span > 0 else 1e-30
        )
        self.inverse = np.float32(1) / self.unit
        self.twice_J = np.rint(np.float32(2) * J * self.inverse).astype(np.float32)
        self.table = np.array([self.quadratic(k) for k in range(63)] + [(0, 0, 0)]).T

    def probability(self, x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(x)) if self.rule == "gibbs" else np.exp(-x)

    def quadratic(self, k: int) -> tuple[int, int, int]:
        first = k == 0 and self.rule == "gibbs"
        t = np.array([0.0 if first else 0.5 - 3**0.5 / 4, 0.5, 0.5 + 3**0.5 / 4])
        x = (1024 * (k + t) + (t / 2 if first else 0.5)) * self.REACH / 65536
        p0, p1, p2 = np.linalg.solve(np.vander(t, increasing=True), 65536 * self.probability(x))
        return round(min(p0 if first else p0 - 0.5, 65535)), round(-p1), round(p2)

    def below(self, q: np.ndarray, beta: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Whether u < p(|q|): fields q in units, u in 16 bits."""
        factor = 2 * beta.astype(np.float64) * self.unit * (65536 / self.REACH)
        twice = 2.0 ** np.floor(np.log2(factor.clip(1)))
        part = np.where(factor < 1, factor, factor / twice - 1) * 65536 // 1
        most = np.where(factor < 1, 65535, 65535 / (twice * (1 + part / 65536)) // 1)
        a, part = (np.minimum(np.abs(q), most) * twice).astype(np.int64), part.astype(np.int64)
        c0, c1, c2 = self.table[:, self.argument(a, part, factor) >> 10]
        t = (self.argument(a, part, factor) << 6) & 65535
        return u < c0 - (t * (c1 - (t * c2 >> 16)) >> 16)

    @staticmethod
    def argument(a: np.ndarray, part: np.ndarray, factor: np.ndarray) -> np.ndarray:
        return np.where(factor < 1, 0, a) + (a * part >> 16)


def slow_sweep(
    problem: Ising,
    num: int,
    betas: np.ndarray,
    seed: int,
    spins: torch.Tensor | None = None,
    first_replica: int = 0,
    first_sweep: int = 0,
    rule: str = "gibbs",
    scan: str = "forward",
    isa: str = "plain",
    precision: str = "full",
) -> np.ndarray:
    """`native.sweep_sparse` of one problem; betas [S] or [S, R]; int8 [R, n]."""
    fused = isa != "plain"
    graph, h, J = problem.graph, problem.h.float().numpy(), problem.J.float().numpy()
    n, replicas = graph.num_spins, first_replica + np.arange(num)
    order = [
        i
        for c in graph.colours
        for i in sorted(c.tolist(), key=lambda i: (-int(graph.degree[i]), i))
    ]
    near: list[list[tuple[int, int]]] = [[] for _ in range(n)]
    for e, (i, j) in enumerate(graph.pairs.T.tolist()):
        near[i].append((j, e))
        near[j].append((i, e))
    up = np.empty((num, n), dtype=bool)
    for i in range(n):
        first = random_bits(seed, replicas, 2**32 - 1, i) < 2**31
        up[:, i] = first if spins is None else spins[:, i].numpy() > 0
    two, asked = np.float32(2), rule
    both = {
        rule: Fixed16(problem, rule) if precision == "fixed16" else None
        for rule in ("gibbs", asked)
    }
    for k, beta in enumerate(betas):
        rule = asked if (first_sweep + k) % 4 else "gibbs"
        fixed = both[rule]
        beta = np.broadcast_to(np.asarray(beta, dtype=np.float32), num)
        visits = [(2 * (first_sweep + k), i) for i in order]
        visits += [(2 * (first_sweep + k) + 1, i) for i in reversed(order) if scan == "palindromic"]
        for number, i in visits:
            if fixed is not None:
                rounded = sum((fixed.twice_J[e] for _, e in sorted(near[i])), start=np.float32(0))
                q = np.full(num, np.rint((h[i] - fixed.unit * rounded / two) * fixed.inverse))
                for j, e in sorted(near[i]):
                    q += np.where(up[:, j], fixed.twice_J[e], 0)
                word = random_bits(seed, replicas >> 1, number, i)
                below = fixed.below(
                    q, beta, np.where(replicas & 1, word >> np.uint32(16), word & np.uint32(65535))
                )
                up[:, i] = (
                    below ^ (q < 0) if rule == "gibbs" else up[:, i] ^ (up[:, i] ^ (q < 0) | below)
                )
                continue
            total = np.float32(0)
            for _, e in sorted(near[i]):
                total += J[e]
            f = np.full(num, h[i] - total, dtype=np.float32)
            for j, e in sorted(near[i]):
                f += np.where(up[:, j], two * J[e], np.float32(0))
            x, u = (
                two * np.float32(1.44269504) * beta * f,
                random_bits(seed, replicas, number, i).astype(np.float32),
            )
            if rule == "gibbs":
                up[:, i] = multiply_add(u, power(x, fused), u, fused) <= 2**32
            else:
                up[:, i] ^= u <= power(np.where(up[:, i], x, -x), fused) * np.float32(2**32)
    return (2 * up.astype(np.int8) - 1).astype(np.int8)


def onsager(beta: float, size: int) -> float:
    """Mean energy of a ferromagnet on a size x size torus, J = -1: Kaufman's exact sum, Phys. Rev. 76, 1232 (1949)."""
    K = torch.tensor(beta, dtype=torch.float64, requires_grad=True)
    m = n = size

    def gamma(r: int) -> torch.Tensor:
        if r == 0:
            return 2 * K + torch.log(torch.tanh(K))
        cosh = torch.cosh(2 * K) / torch.tanh(2 * K) - np.cos(np.pi * r / n)
        return torch.acosh(cosh)

    odd, even = ([gamma(r) * (m / 2) for r in range(k, 2 * n, 2)] for k in (1, 0))

    def log_product(terms: Sequence[torch.Tensor], sign: int) -> torch.Tensor:
        """log prod |2 cosh x| or |2 sinh x|; in the disordered phase gamma_0 < 0."""
        return torch.stack(
            [x.abs() + torch.log1p(sign * torch.exp(-2 * x.abs())) for x in terms]
        ).sum()

    logs = torch.stack(
        [log_product(odd, 1), log_product(odd, -1), log_product(even, 1), log_product(even, -1)]
    )
    signs = torch.tensor([1.0, 1.0, 1.0, float(gamma(0).detach().sign())], dtype=torch.float64)
    top = logs.max().detach()
    log_z = (
        m * n / 2 * torch.log(2 * torch.sinh(2 * K))
        + torch.log((signs * (logs - top).exp()).sum())
        + top
    )
    return -float(torch.autograd.grad(log_z, K)[0])
