"""How to train: everything a run needs to be repeated, beside the model, the data and the sampler."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from qsample.checks import plain_seed, whole_settings
from qsample.gradient import Start

Decay = Literal["linear", "none"]
Optimizer = Literal["adam", "sgd"]


@dataclass(frozen=True)
class Settings:
    """How to train; everything a run needs to be repeated, with the model, the data and the sampler."""

    updates: int = 5000
    """gradient steps"""
    batch: int = 200
    """rows of data a step"""
    lr: float = 0.02
    """learning rate at the start"""
    decay: Decay = "linear"
    """the learning rate falls to zero at the last update, or stays"""
    optimizer: Optimizer = "adam"
    """torch optimiser"""
    weight_decay: float = 0.0
    """L2 penalty of the optimiser"""
    start: Start = "persistent"
    """where the negative chains begin: data (CD), persistent (PCD), fresh (annealed)"""
    chains: int = 512
    """negative samples a step"""
    centred: bool = False
    """the centred gradient, offsets by moving average"""
    seed: int = 0
    """of everything random"""
    evaluate_every: int = 250
    """updates between lines of metrics"""
    checkpoint_every: int = 1000
    """updates between checkpoints"""

    def __post_init__(self) -> None:
        # plain ints: a checkpoint stores them as they are
        whole_settings(self, updates=1, batch=1, chains=1, evaluate_every=1, checkpoint_every=1)
        object.__setattr__(self, "seed", plain_seed(self.seed))
        for name, options in (("decay", Decay), ("optimizer", Optimizer), ("start", Start)):
            if getattr(self, name) not in get_args(options):
                wanted = ", ".join(get_args(options))
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; expected one of {wanted}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"expected a weight_decay >= 0; got {self.weight_decay}")
        if not 0 < self.lr < 1e30:  # beyond, float32 overflows inside the optimiser
            raise ValueError(f"expected a learning rate > 0 and < 1e30; got {self.lr}")
