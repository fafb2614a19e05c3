"""What benchmarks/engine.py times: the cases, and the lines of the table that they make.

A case is "instance, R x S": R reads of S sweeps each, 64 x 100 where it does not say. Most are
calls of a sampler, timed beside other packages' calls. A case with a base is timed beside that
instead, in the same process: "products" beside the two matrix products of a sweep, "cd" and "pcd"
beside a step of plain torch.
"""

from __future__ import annotations

from dataclasses import dataclass

BASES = {
    "products": "two float32 products",
    "cd": "plain torch",
    "pcd": "plain torch",
    "pcd_bfloat16": "plain torch",
}
"""what a case is measured against in its own process, by kind of instance"""


@dataclass(frozen=True)
class Case:
    """One problem, reads and sweeps, and how it is called."""

    name: str
    """"instance, R x S\""""
    threads: tuple[int, ...] = (1,)
    """numbers of threads of our own calls; other packages have one"""
    peers: bool = True
    """whether other packages are timed on it"""

    @property
    def kind(self) -> str:
        """Kind of its instance: what stands before the size."""
        return self.name.partition("-")[0]

    @property
    def base(self) -> str | None:
        """What it is timed beside in its own process, if not other packages."""
        return BASES.get(self.kind)


@dataclass(frozen=True)
class Line:
    """A line of the table: a label, and a figure of some rows for each instruction set."""

    label: str
    measure: str
    """which figure; see `readme_table.FIGURES`"""
    rows: tuple[tuple[str, int], ...]
    """(case, threads) of each figure in a cell"""


ALL = (
    Case("pegasus-16", threads=(1, 2)),
    Case("zephyr-15", threads=(1, 2)),
    Case("3d-16", threads=(1, 2)),
    Case("sk-1000"),
    Case("rbm-784x500, 64 x 1"),
    Case("shared-512x200, 1 x 20"),
    Case("pegasus-16, 1 x 1000"),
    Case("own-64x28, 1 x 100"),
    Case("products-784x500, 512 x 1"),
    Case("cd-784x500, 64 x 1", threads=(2,)),
    Case("pcd-784x500, 500 x 10", threads=(2,)),
    Case("pcd_bfloat16-784x500, 500 x 10", threads=(2,)),
    Case("pegasus-16, 256 x 100", threads=(1, 2), peers=False),
    Case("zephyr-15, 256 x 100", threads=(1, 2), peers=False),
    Case("3d-16, 256 x 100", threads=(1, 2), peers=False),
    Case("zephyr-12", threads=(2,), peers=False),
    Case("zephyr-12, 512 x 100", threads=(2,), peers=False),
)
CHIPS = ("pegasus-16", "zephyr-15", "3d-16")
LINES = (
    Line("Pegasus-16, 64 reads × 100 sweeps", "times", (("pegasus-16", 1),)),
    Line("Zephyr-15, 64 × 100", "times", (("zephyr-15", 1),)),
    Line("3D, 16³ spins ±J, 64 × 100", "times", (("3d-16", 1),)),
    Line("SK, 1,000 spins, 64 × 100", "times", (("sk-1000", 1),)),
    Line("RBM 784 × 500, 64 × 1", "times", (("rbm-784x500, 64 x 1", 1),)),
    Line("512 problems that share J, 200 spins, 1 × 20", "times", (("shared-512x200, 1 x 20", 1),)),
    Line("Pegasus-16, 1 × 1,000", "times", (("pegasus-16, 1 x 1000", 1),)),
    Line("64 problems, a J each, 784 spins, 1 × 100", "times", (("own-64x28, 1 x 100", 1),)),
    Line(
        "two threads over one: Pegasus-16 / Zephyr-15 / 3D, 64 reads",
        "threads",
        tuple((name, 2) for name in CHIPS),
    ),
    Line(
        "the same, 256 reads",
        "threads",
        tuple((f"{name}, 256 x 100", 2) for name in CHIPS),
    ),
    Line(
        "reads per second, two threads: Zephyr-12, 64 / 512 × 100",
        "reads",
        (("zephyr-12", 2), ("zephyr-12, 512 x 100", 2)),
    ),
    Line(
        "time over two float32 products: a sweep of 512 chains, 784 × 500",
        "share",
        (("products-784x500, 512 x 1", 1),),
    ),
    Line(
        "time over plain torch, two threads: CD-1, 64 rows / a PCD-10 step / its loss in bfloat16",
        "share",
        (
            ("cd-784x500, 64 x 1", 2),
            ("pcd-784x500, 500 x 10", 2),
            ("pcd_bfloat16-784x500, 500 x 10", 2),
        ),
    ),
)


def case(name: str) -> Case:
    """The case of a name: of the table, or any other instance, reads and sweeps."""
    known = {case.name: case for case in ALL}
    return known.get(name, Case(name))
