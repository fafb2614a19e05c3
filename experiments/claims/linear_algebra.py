r"""Linear algebra by sampling, beside torch's own: its error against its prediction, and its time.

    python experiments/claims/linear_algebra.py --out runs/linear_algebra

Three ways by which samplers are said to do linear algebra, each with the error that is known:

- *Thermodynamic* (Aifer et al., arXiv 2308.05660): dx = -(A x - b) dt + (2/beta)^(1/2) dW has the
  stationary law N(A^-1 b, A^-1 / beta). Means of its draws solve A x = b, their covariance inverts
  A, and the work of switching A on gives log det A. The process is drawn exactly, an
  Ornstein-Uhlenbeck process in steps of the slowest relaxation time. It is *simulated*: before the
  first exact draw A is factorised, which costs what the solution costs. The law is the same in
  every orthogonal basis, so errors are drawn in that of A's eigenvectors; times are those of draws
  from a dense A.
- *QUBO least squares* (box algorithm, arXiv 2405.03029; i-QLS, arXiv 2505.02788): every variable
  has a few bits inside a box; the box goes to the best read, or shrinks to a fifth where none is
  better than its centre. Any sampler, any precision.
- *Randomised products* (Drineas, Kannan and Mahoney, SIAM J. Comput. 36, 2006): A B from c columns
  of A and rows of B, drawn in proportion to the product of their norms.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import qsample as qs
from qsample.annealers import QAOA, Neal, ParallelTempering, SimulatedAnnealing
from qsample.sampling import Sampler

sys.path.append(str(Path(__file__).parents[2]))
from experiments.common import (
    OURS,
    THEIRS,
    CommonOptions,
    Report,
    command_line,
    progress_bar,
    timed,
)

CONDITION = 10.0  # largest over smallest eigenvalue of A, the smallest being 1
LARGEST = 2e10  # products of numbers that one point may take
NORMALS = 2e8  # and normal numbers for its determinants, which are left out beyond
STAGES = 0.5  # log-variance of the work of one stage of a determinant
WORST = 1 << 14  # QUBO rounds after which it is given up


@dataclass(frozen=True)
class Options(CommonOptions):
    """Settings."""

    sizes: tuple[int, ...] = (16, 64, 256, 1024)
    """orders N of the matrices"""
    draws: tuple[int, ...] = (100, 1000)
    """numbers of draws"""
    repeats: int = 50
    """repeats of every point, of which the error is the root mean square"""
    terms: tuple[int, ...] = (64, 256)
    """columns drawn of a randomised product"""
    unknowns: tuple[int, ...] = (4, 8, 16)
    """numbers of unknowns of least squares"""
    bits: tuple[int, ...] = (2, 3)
    """bits of an unknown"""
    accuracy: float = 1e-10
    """relative error at which least squares end"""
    problems: int = 1
    """systems of least squares of each size"""
    reads: int = 50
    """reads of a round"""
    rounds: int = 3
    """rounds of timing"""


def main(options: Options) -> None:
    """Draw, refine, multiply, time, and draw the picture."""
    report = Report(options, __file__)
    parts = {
        "times": times,
        "least_squares": least_squares,
        "products": products,
        "thermodynamic": thermodynamic,
    }
    result: dict[str, Any] = {}
    for name, part in parts.items():
        result[name] = part(options)
        report.write(result)
    result["worst"] = worst(result)
    result["verdict"] = verdict(result)
    print(result["worst"], result["verdict"], sep="\n")
    report.finish(result, picture(result))


def seeded(*numbers: int) -> torch.Generator:
    """A generator of its own for each point."""
    seed = 0
    for number in numbers:
        seed = 1_000_003 * seed + number
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, generator: torch.Generator) -> Tensor:
    """Standard normal numbers in double precision."""
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def rms(values: list[float]) -> float:
    """Root mean square."""
    return math.sqrt(sum(value * value for value in values) / len(values))


# ---- thermodynamic ----------------------------------------------------------------------------


def spectrum(n: int) -> Tensor:
    """Eigenvalues of A, from 1 to `CONDITION` in equal ratios."""
    return torch.logspace(0, math.log10(CONDITION), n, dtype=torch.float64)


def thermodynamic(options: Options) -> dict[str, Any]:
    """Errors of solution, inverse and log-determinant, beside their predictions, by N and draws."""
    rows: dict[str, Any] = {}
    for n in progress_bar(options.sizes, desc="thermodynamic"):
        rows[str(n)] = {}
        for draws in options.draws:
            if options.repeats * draws * n * n > LARGEST:
                continue
            rows[str(n)][str(draws)] = a_point(n, draws, options.repeats)
    return rows


def a_point(n: int, draws: int, repeats: int) -> dict[str, dict[str, float]]:
    """The three errors with so many draws, relative to what is computed; log det in nats."""
    eigenvalues = spectrum(n)
    solution = 1 / eigenvalues.sqrt()  # of b = A^(1/2) 1, in the basis of eigenvectors
    errors: dict[str, list[float]] = {"solve": [], "inverse": [], "log_det": []}
    for repeat in range(repeats):
        generator = seeded(n, draws, repeat)
        x = process(eigenvalues, draws, generator)
        # the process around the solution, and around 0 for the covariance
        errors["solve"].append(float(x.mean(0).norm() / solution.norm()))
        covariance = x.T @ x / draws
        covariance.diagonal().sub_(1 / eigenvalues)
        errors["inverse"].append(float(covariance.norm() / (1 / eigenvalues).norm()))
        if repeats * draws * n * (len(stages(eigenvalues)) - 1) <= NORMALS:
            truth = float(eigenvalues.log().sum())
            errors["log_det"].append(log_det(eigenvalues, draws, generator) - truth)
    told = predictions(eigenvalues, draws)
    return {
        name: {"error": rms(values), "predicted": told[name], "ratio": rms(values) / told[name]}
        for name, values in errors.items()
        if values
    }


def process(eigenvalues: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """A stationary path at times 0, 1, 2, ..., less its mean, `[draws, N]`; exact at any step."""
    noise = normal(draws, len(eigenvalues), generator=generator)
    keep = (-eigenvalues).exp()
    noise[1:] *= (1 - keep.square()).sqrt()
    for step in range(1, draws):
        noise[step].addcmul_(keep, noise[step - 1])
    return noise / eigenvalues.sqrt()


def log_det(eigenvalues: Tensor, draws: int, generator: torch.Generator) -> float:
    r"""Log det A from the work of switching A on, from the unit matrix, in stages.

    $\det A_{k+1} / \det A_k = \langle e^{-x^T (A_{k+1} - A_k) x / 2} \rangle_k^{-2}$ over the
    stationary law of stage k, which is drawn afresh.
    """
    total = 0.0
    path = stages(eigenvalues)
    for before, after in zip(path, path[1:], strict=False):
        x = normal(draws, len(before), generator=generator)
        work = x.square() @ ((after - before) / before) / 2
        total -= 2 * float((-work).logsumexp(0) - math.log(draws))
    return total


def stages(eigenvalues: Tensor) -> list[Tensor]:
    """Eigenvalues of 1 + t (A - 1) at the times t of a path whose works are alike."""
    n = len(eigenvalues)
    count = math.ceil(math.log(CONDITION) * math.sqrt(n / 2 / STAGES))
    times = (torch.linspace(0, math.log(CONDITION), count + 1).double().exp() - 1) / (CONDITION - 1)
    return [1 + float(t) * (eigenvalues - 1) for t in times]


def predictions(eigenvalues: Tensor, draws: int) -> dict[str, float]:
    r"""What is known of the errors, root mean squares, as `a_point` states them.

    With $\sigma_i^2 = 1/\lambda_i$ and $\rho_i = e^{-\lambda_i}$: $E|\bar x|^2 = \sum_i \sigma_i^2
    v(\rho_i)$ and $E|\hat C - C|_F^2 = \sum_{ij} (1 + \delta_{ij}) \sigma_i^2 \sigma_j^2 v(\rho_i
    \rho_j)$, v the variance of a mean. Independent draws have v = 1 / draws. Of log det, the
    relative variance of each stage's mean, $\prod_i r_i / \sqrt{2 r_i - 1} - 1$ per draw, with r_i
    the ratio of eigenvalues.
    """
    variance = 1 / eigenvalues
    keep = (-eigenvalues).exp()
    solve = (variance * variance_of_mean(keep, draws)).sum()
    pairs = torch.outer(variance, variance) * variance_of_mean(torch.outer(keep, keep), draws)
    inverse = pairs.sum() + pairs.diagonal().sum()
    path = stages(eigenvalues)
    spread = 0.0
    for before, after in zip(path, path[1:], strict=False):
        r = after / before
        spread += math.expm1(float((r.log() - (2 * r - 1).log() / 2).sum())) / draws
    solution = 1 / eigenvalues.sqrt()
    return {
        "solve": float(solve.sqrt() / solution.norm()),
        "inverse": float(inverse.sqrt() / variance.norm()),
        "log_det": 2 * math.sqrt(spread),
    }


def variance_of_mean(keep: Tensor, draws: int) -> Tensor:
    """Of the mean of a stationary sequence of variance 1 and autocorrelation keep^t."""
    rest = 2 * keep * (1 - keep**draws) / (draws * (1 - keep) ** 2)
    return ((1 + keep) / (1 - keep) - rest) / draws


# ---- randomised products ----------------------------------------------------------------------


def products(options: Options) -> dict[str, Any]:
    """Errors of A B from c terms beside expectation and bound, by N and c; Gaussian matrices."""
    rows: dict[str, Any] = {}
    for n in progress_bar(options.sizes, desc="products"):
        A = normal(n, n, generator=seeded(n, 1))
        B = normal(n, n, generator=seeded(n, 2))
        whole = A @ B
        scale = float(A.norm() * B.norm())
        norms = A.norm(dim=0) * B.norm(dim=1)
        rows[str(n)] = {}
        for terms in options.terms:
            errors = [
                float((product(A, B, terms, seeded(n, terms, k)) - whole).norm()) / scale
                for k in range(options.repeats)
            ]
            expected = math.sqrt(float(norms.sum() ** 2 - whole.norm() ** 2) / terms) / scale
            rows[str(n)][str(terms)] = {
                "error": rms(errors),
                "predicted": expected,
                "bound": terms**-0.5,
                "ratio": rms(errors) / expected,
                "relative_error": rms(errors) * scale / float(whole.norm()),
            }
    return rows


def product(A: Tensor, B: Tensor, terms: int, generator: torch.Generator) -> Tensor:
    """Sum over drawn k of A[:, k] B[k] / (terms p_k), p_k ∝ |A[:, k]| |B[k]|."""
    p = A.norm(dim=0) * B.norm(dim=1)
    p = p / p.sum()
    k = torch.multinomial(p, terms, replacement=True, generator=generator)
    return (A[:, k] / (terms * p[k])) @ B[k]


# ---- least squares as QUBO --------------------------------------------------------------------


def samplers(unknowns: int, bits: int) -> dict[str, Sampler]:
    """Who draws the reads; circuits where they are small enough."""
    by_name: dict[str, Sampler] = {
        "SimulatedAnnealing": SimulatedAnnealing(100, (0.01, 3.0)),
        "ParallelTempering": ParallelTempering(12, (0.1, 0.2, 0.4, 0.7, 1.0), adapt=False),
        "Neal": Neal(100, (0.01, 3.0)),
    }
    if unknowns * bits <= 12:
        by_name["QAOA"] = QAOA(4)
    return by_name


def least_squares(options: Options) -> list[dict[str, Any]]:
    """Rounds, and the error after each, of every sampler, number of unknowns and of bits."""
    rows: list[dict[str, Any]] = []
    for n in progress_bar(options.unknowns, desc="least squares"):
        for bits in options.bits:
            for name, sampler in samplers(n, bits).items():
                runs = [
                    refined(n, bits, sampler, options, number) for number in range(options.problems)
                ]
                rows.append(
                    {
                        "unknowns": n,
                        "bits": bits,
                        "sampler": name,
                        "error": max(run["errors"][-1] for run in runs),
                        "rounds": sum(len(run["errors"]) for run in runs) / len(runs),
                        "seconds": sum(run["seconds"] for run in runs) / len(runs),
                        "lstsq_error": max(run["lstsq_error"] for run in runs),
                        "lstsq_seconds": sum(run["lstsq_seconds"] for run in runs) / len(runs),
                        "errors": runs[0]["errors"],
                    }
                )
    return rows


def refined(n: int, bits: int, sampler: Sampler, options: Options, number: int) -> dict[str, Any]:
    r"""One system of 2 N equations, solved by rounds of reads.

    In a round x = c + w C s, with spins s, $C = I \otimes (2^0, ..., 2^{K-1}) / (2^K - 1)$, c the
    centre and w half the width of the box: with r = b - A c,

    $$|A x - b|^2 - |r|^2 = w^2 \big( s^T C^T A^T A C s - (2 / w)\, r^T A C s \big).$$

    The bracket does not shrink with w, and r is computed afresh: no precision is lost.
    """
    generator = seeded(n, number)
    A = normal(2 * n, n, generator=generator)
    b = normal(2 * n, generator=generator)
    truth = torch.linalg.solve(A.T @ A, A.T @ b)
    # one step more, in the residual, so that the reference is as good as doubles are
    truth = truth + torch.linalg.solve(A.T @ A, A.T @ (b - A @ truth))
    errors: list[float] = []

    def solve() -> None:
        place = 2.0 ** torch.arange(bits, dtype=torch.float64) / (2**bits - 1)
        C = torch.kron(torch.eye(n, dtype=torch.float64), place[None])
        G = (A @ C).T @ (A @ C)
        J = G + G.mT  # symmetric to the last digit, which a product is not
        J.fill_diagonal_(0)
        beta = 4 / float(J.norm() / math.sqrt(len(J)))
        graph = qs.Graph.complete(len(G))
        centre = torch.zeros(n, dtype=torch.float64)
        width = float(b.norm())
        while len(errors) < WORST:
            h = -2 / width * (C.T @ (A.T @ (b - A @ centre)))
            problem = qs.Ising(graph, h, J, G.diagonal().sum())
            reads = sampler.sample(problem.scale(beta), options.reads, generator=generator)
            gain, best = problem.energy(reads.spins).min(0)
            if gain < 0:
                centre = centre + width * (C @ reads.spins[best].double())
            else:
                width *= 0.2
            errors.append(float((centre - truth).norm() / truth.norm()))
            if errors[-1] <= options.accuracy:
                break

    seconds = timed(solve).cpu
    direct = torch.linalg.lstsq(A, b[:, None]).solution[:, 0]
    return {
        "errors": errors,
        "seconds": seconds,
        "lstsq_error": float((direct - truth).norm() / truth.norm()),
        "lstsq_seconds": least(lambda: torch.linalg.lstsq(A, b[:, None]), options.rounds),
    }


# ---- time -------------------------------------------------------------------------------------


def least(call: Callable[[], Any], rounds: int) -> float:
    """The shortest of several calls, CPU seconds, after one that is not counted."""
    call()
    return min(timed(call).cpu for _ in range(rounds))


def times(options: Options) -> dict[str, Any]:
    """CPU seconds of torch's own and of draws from a dense A, by N."""
    rows: dict[str, Any] = {}
    for n in progress_bar(options.sizes, desc="times"):
        generator = seeded(n, 3)
        Q = torch.linalg.qr(normal(n, n, generator=generator)).Q
        eigenvalues = spectrum(n)
        A = (Q * eigenvalues) @ Q.T
        solution = Q @ (1 / eigenvalues.sqrt())
        b = A @ solution
        B = normal(n, n, generator=generator)
        draws = 1000
        noise = normal(n, draws, generator=generator)
        L = torch.linalg.cholesky(A)
        calls: dict[str, Callable[[], Any]] = {
            "solve": lambda A=A, b=b: torch.linalg.solve(A, b),
            "inverse": lambda A=A: torch.linalg.inv(A),
            "log_det": lambda A=A: torch.linalg.slogdet(A),
            "matmul": lambda A=A, B=B: A @ B,
            "factorisation": lambda A=A: torch.linalg.cholesky(A),
            "draws": lambda L=L, x=noise: torch.linalg.solve_triangular(L.mT, x, upper=True),
            "covariance": lambda x=noise: x @ x.T,
            "terms": lambda A=A, B=B: product(A, B, 256, seeded(1)),
        }
        seconds = {name: least(call, options.rounds) for name, call in calls.items()}
        # of one draw: without and with its share in the covariance
        seconds["draw"] = seconds.pop("draws") / draws
        seconds["draw_in_covariance"] = seconds["draw"] + seconds.pop("covariance") / draws
        error = float((torch.linalg.solve(A, b) - solution).norm() / solution.norm())
        rows[str(n)] = {"seconds": seconds, "solve_error": error, "to_one_percent": to_one(n)}
    return rows


def to_one(n: int) -> dict[str, float]:
    """Draws, or terms of a product, to a relative error of 1 %; log det to 0.01 nats."""
    eigenvalues = spectrum(n)
    at = 1e6  # where the error has fallen to its power of draws
    told = predictions(eigenvalues, int(at))
    needed = {name: at * (error / 0.01) ** 2 for name, error in told.items()}
    # a Gaussian product: |A B|_F = |A|_F |B|_F / sqrt(N)
    return {**needed, "matmul": n / 1e-4}


def worst(result: dict[str, Any]) -> dict[str, Any]:
    """The point furthest from its prediction, and the least squares that ended worst."""
    ratios = [
        point["ratio"]
        for row in result["thermodynamic"].values()
        for draws in row.values()
        for point in draws.values()
    ]
    of_products = [p["ratio"] for row in result["products"].values() for p in row.values()]
    above = max(
        p["error"] / p["bound"] for row in result["products"].values() for p in row.values()
    )
    return {
        "thermodynamic_points": len(ratios),
        "thermodynamic_ratios": [min(ratios), max(ratios)],
        "product_points": len(of_products),
        "product_ratios": [min(of_products), max(of_products)],
        "product_error_over_bound": above,
        "least_squares_error": max(row["error"] for row in result["least_squares"]),
        "least_squares_slower": min(
            row["seconds"] / row["lstsq_seconds"] for row in result["least_squares"]
        ),
    }


def by_sampling(n: int, seconds: dict[str, float], draws: dict[str, float]) -> dict[str, float]:
    """CPU seconds of each result with so many draws, or terms of a product.

    Args:
        n: order N.
        seconds: seconds of one draw and of torch's own, as `times` has them.
        draws: their numbers, by result.
    """
    factorisation = seconds["factorisation"]
    in_stages = draws["log_det"] * (len(stages(spectrum(n))) - 1)
    return {
        "solve": factorisation + draws["solve"] * seconds["draw"],
        "inverse": factorisation + draws["inverse"] * seconds["draw_in_covariance"],
        "log_det": in_stages * seconds["draw"],
        "matmul": draws["matmul"] / 256 * seconds["terms"],
    }


def verdict(result: dict[str, Any]) -> dict[str, Any]:
    """How many times torch's own time a result of 1 % takes by sampling, by N; and what it says."""
    slower: dict[str, dict[str, float]] = {}
    for n, row in result["times"].items():
        seconds = row["seconds"]
        sampled = by_sampling(int(n), seconds, row["to_one_percent"])
        slower[n] = {name: sampled[name] / seconds[name] for name in sampled}
    least_of_all = min(min(row.values()) for row in slower.values())
    none = "no crossover: sampling takes longer for 1 % than torch for 15 digits at every size"
    return {
        "times_slower_at_one_percent": slower,
        "least": least_of_all,
        "text": none if least_of_all > 1 else "a crossover: look at it",
    }


# ---- picture ----------------------------------------------------------------------------------


def picture(result: dict[str, Any]) -> Figure:
    """Errors over draws, over terms, over rounds; times over N."""
    figure, axes = plt.subplots(2, 4, figsize=(20.0, 9.0))
    names = {
        "solve": "solution of A x = b, relative error",
        "inverse": "inverse of A, relative error",
        "log_det": "log det A, error in nats",
    }
    for axis, (name, title) in zip(axes[0], names.items(), strict=False):
        over_draws(axis, result["thermodynamic"], name)
        axis.set(title=title, xlabel="draws of the Ornstein-Uhlenbeck process")
    over_terms(axes[0, 3], result["products"])
    over_rounds(axes[1, 0], result["least_squares"])
    rows = result["times"]
    over_time(axes[1, 1], min(rows, key=int), rows)
    over_time(axes[1, 2], max(rows, key=int), rows)
    over_sizes(axes[1, 3], result["verdict"]["times_slower_at_one_percent"])
    figure.suptitle(
        "Linear algebra by sampling: errors (dots, root mean square of repeats) fall as predicted "
        "(lines), and torch is faster and exact at every size",
        fontsize=13,
    )
    figure.tight_layout()
    return figure


def over_draws(axis: Axes, rows: dict[str, Any], name: str) -> None:
    """Measured and predicted errors of one result, a colour per N."""
    for k, (n, row) in enumerate(rows.items()):
        points = {int(count): row[count][name] for count in row if name in row[count]}
        told = [point["predicted"] for point in points.values()]
        axis.loglog(list(points), told, "-", color=f"C{k}", lw=1)
        errors = [point["error"] for point in points.values()]
        axis.loglog(list(points), errors, "o", color=f"C{k}", ms=5, label=f"N = {n}")
    decorated(axis)


def over_terms(axis: Axes, rows: dict[str, Any]) -> None:
    """Errors of randomised products over terms, and the bound."""
    terms = [int(count) for count in next(iter(rows.values()))]
    for k, (n, row) in enumerate(rows.items()):
        axis.loglog(terms, [row[c]["error"] for c in row], "o", color=f"C{k}", label=f"N = {n}")
        axis.loglog(terms, [row[c]["predicted"] for c in row], "-", color=f"C{k}", lw=1)
        relative = [row[c]["relative_error"] for c in row]
        axis.loglog(terms, relative, "x", color=f"C{k}", ms=4)
    axis.loglog(terms, [count**-0.5 for count in terms], "k--", lw=1, label="bound, terms$^{-1/2}$")
    axis.set(
        title="A B: error over |A| |B| (dots), over |A B| (crosses)",
        xlabel="columns and rows drawn",
    )
    decorated(axis)


def over_rounds(axis: Axes, rows: list[dict[str, Any]]) -> None:
    """Errors of least squares round by round, the largest systems."""
    n = max(row["unknowns"] for row in rows)
    bits = max(row["bits"] for row in rows)
    chosen = [row for row in rows if (row["unknowns"], row["bits"]) == (n, bits)]
    for k, row in enumerate(chosen):
        x = range(1, len(row["errors"]) + 1)
        axis.semilogy(x, row["errors"], color=f"C{k}", lw=1.2, label=row["sampler"])
    direct = max(row["lstsq_error"] for row in chosen)
    axis.axhline(max(direct, 1e-17), color=THEIRS, ls="--", lw=1, label="torch.linalg.lstsq")
    axis.set(
        title=f"least squares as QUBO, {n} unknowns of {bits} bits: relative error",
        xlabel="rounds",
    )
    decorated(axis)


def over_time(axis: Axes, n: str, rows: dict[str, Any]) -> None:
    """Relative error over CPU time at one N: by sampling, a line each, and torch's own, a star."""
    row = rows[n]
    scale = float(spectrum(int(n)).log().sum())
    for k, name in enumerate(("solve", "inverse", "log_det", "matmul")):
        errors = [10.0**-e for e in range(5)]
        seconds = []
        for error in errors:
            factor = (0.01 / (error * scale if name == "log_det" else error)) ** 2
            needed = row["to_one_percent"]
            draws = {key: max(1.0, count * factor) for key, count in needed.items()}
            seconds.append(by_sampling(int(n), row["seconds"], draws)[name])
        label = name.replace("_", " ")
        axis.loglog(seconds, errors, "-", color=f"C{k}", label=f"{label}, by sampling")
        axis.loglog(row["seconds"][name], 1e-15, "*", color=f"C{k}", ms=11)
    axis.set(title=f"relative error over time, N = {n}; stars: torch", xlabel="CPU seconds")
    decorated(axis)


def over_sizes(axis: Axes, rows: dict[str, dict[str, float]]) -> None:
    """Times slower than torch, for a result of 1 %."""
    sizes = [int(n) for n in rows]
    for k, name in enumerate(next(iter(rows.values()))):
        values = [row[name] for row in rows.values()]
        axis.loglog(sizes, values, "o-", color=f"C{k}", ms=4, label=name.replace("_", " "))
    axis.axhline(1, color=OURS, ls="--", lw=1, label="torch, 15 digits")
    axis.set_xticks(sizes, [str(n) for n in sizes])
    axis.minorticks_off()
    axis.set(title="CPU time for 1 % by sampling, over torch's", xlabel="N")
    decorated(axis)


def decorated(axis: Axes) -> None:
    """Grid and legend."""
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


if __name__ == "__main__":
    command_line(main, Options)
