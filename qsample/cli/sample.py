"""`qsample sample`: reads of a trained run, in a file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

from qsample.cli.shared import device_of, quiet, restore, sampler_of, seeded
from qsample.sampling.temperature import effective_beta
from qsample.support.files import write_whole
from qsample.support.pictures import mosaic, png


@dataclass(frozen=True)
class Sample:
    """Draw visible samples from a trained run into a file: 0/1 or -1/+1, as its data were.

    Args:
        run: folder of the run.
        out: file for the array [num, n_visible]: .npy, .npz (as x) or .csv; .png draws it,
            where the data are images.
        num: number of samples.
        sampler: sampler that draws: a name that `qsample samplers` lists.
        sweeps: sweeps of the sampler per sample, which its temperatures share.
        set: more settings of the sampler, as in --set betas=16.
        seed: seed of all randomness.
        device: device to sample on: cpu, cuda, mps.
        overwrite: replace a file that is there.
    """

    run: Annotated[Path, tyro.conf.Positional]
    out: Path = Path("samples.npy")
    num: int = 64
    sampler: str = "gibbs"
    sweeps: int = 1000
    set: tuple[str, ...] = ()
    seed: int = 0
    device: str = "cpu"
    overwrite: bool = False

    def __call__(self) -> None:
        """Draw the samples, write the file, and say how far they can be trusted."""
        out = self.out.expanduser()
        self._check_out(out)
        model, config = restore(self.run)
        shape = config.get("image_shape")
        if out.suffix == ".png" and shape is None:
            raise ValueError(
                f"cannot draw {out}: the data of {self.run} are no images; use .npy, .npz or .csv"
            )
        model.to(device_of(self.device))
        problem = model.ising().detach()
        generator = seeded(self.seed)
        sampler = sampler_of(self.sampler, self.sweeps, self.set)
        with quiet():
            samples = sampler.sample(problem, self.num, generator=generator)
            beta = effective_beta(problem, samples)
        # a file holds rows alone, without their weights
        if samples.log_weight is not None:
            samples = samples.resample(generator=generator)
        x = model.split(samples.spins)[0].to("cpu", torch.int8).numpy()
        write_whole(out, _file_of(x, out.suffix, shape))
        note = samples.info.get("note")
        doubts = f"; {note}" if note else ""
        trust = f"{samples.exactness.value}, effective beta {beta}{doubts}"
        print(f"{self.num} samples ({trust}): {out}")

    def _check_out(self, out: Path) -> None:
        """ValueError for a file that cannot or should not be written, before anything is drawn."""
        if out.suffix not in (".npy", ".npz", ".csv", ".png"):
            raise ValueError(f"cannot write {out}: expected a .npy, .npz, .csv or .png file")
        if not out.parent.is_dir():
            raise ValueError(f"cannot write {out}: there is no folder {out.parent}")
        if out.exists() and not self.overwrite:
            raise ValueError(f"{out} is there already: give --overwrite, or another --out")


def _file_of(x: np.ndarray, suffix: str, shape: Sequence[int] | None) -> bytes:
    """The bytes of a file of this kind that holds the rows."""
    if suffix == ".csv":
        lines = [",".join(map(str, row)) + "\n" for row in x.tolist()]
        return "".join(lines).encode()
    if suffix == ".png":
        assert shape is not None
        return png(mosaic((x > 0).astype(np.uint8), (shape[0], shape[1])))
    file = io.BytesIO()
    if suffix == ".npz":
        np.savez_compressed(file, x=x)
    else:
        np.save(file, x)
    return file.getvalue()
