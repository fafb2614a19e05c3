"""The command `qsample sapi`."""

from __future__ import annotations

import shlex
import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class Sapi:
    """Serve D-Wave's solver API on this machine, for their own client: our engine answers.

    No token of D-Wave's is needed.
    """

    topology: str = "zephyr-12"
    """zephyr-12 (Advantage2), pegasus-16 (Advantage), chimera-16 (2000Q) or another size"""
    beta: float = 6.35
    """the hidden inverse temperature, in units of h and J on the chip"""
    drift: float = 0.0
    """relative swing of beta from programming to programming"""
    bias: float = 0.0
    """field added to every active h"""
    noise: float = 0.0
    """relative Gaussian error of h and J, afresh at each programming"""
    real_time: bool = False
    """let a job take as long as its QPU access time"""
    seed: int = 0
    """seed of all randomness"""
    port: int = 0
    """port on 127.0.0.1; 0 picks a free one"""

    def __call__(self) -> None:
        """Serve until Ctrl-C."""
        from qsample.testing.sapi import Chip, SolverServer

        chip = Chip(
            beta=self.beta, drift=self.drift, bias=self.bias, noise=self.noise, seed=self.seed
        )
        with SolverServer(
            self.topology, chip=chip, real_time=self.real_time, port=self.port
        ) as server:
            for name, value in server.environment.items():
                print(f"export {name}={shlex.quote(value)}")
            print(f"# {self.topology} at {server.endpoint}; Ctrl-C stops it", flush=True)
            try:
                threading.Event().wait()
            except KeyboardInterrupt:
                spent = server.charged / 1e6
                print(
                    f"\n# {len(server.jobs)} jobs, {server.programmings} programmings, "
                    f"{spent:.3f} s of QPU access time"
                )
