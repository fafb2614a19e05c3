"""What every energy model offers to the estimators: the model's side of the contract."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from qsample.checks import check_tensors
from qsample.enumerate import log_2cosh
from qsample.graph import Graph, check_graph
from qsample.ising import Ising

Coding = Literal["bits", "spins"]


class Intractable(ValueError):
    """The quantity would need a sum over coupled hidden spins; the message names the call that samples it."""


class EnergyModel(nn.Module, ABC):
    """A Boltzmann law over visible data x and hidden units, p(x, hidden) proportional to exp(-E(x, hidden)).

    Data and hidden units are in the model's own coding, {0,1} (`coding == "bits"`) or -1/+1 (`"spins"`).
    """

    visible_index: Tensor
    hidden_index: Tensor

    def __init__(self, graph: Graph, hidden: Tensor, coding: Coding) -> None:
        super().__init__()
        check_graph(graph)
        self.graph, self.coding = graph, coding
        hidden = hidden.sort().values  # the order in which a clamp leaves them
        visible = torch.ones(graph.num_spins, dtype=torch.bool)
        visible[hidden] = False
        self.register_buffer("visible_index", visible.nonzero()[:, 0], persistent=False)
        self.register_buffer("hidden_index", hidden, persistent=False)
        self._ranges = tuple(map(_range, (self.visible_index, self.hidden_index)))

    # ---- what a model defines --------------------------------------------------------------------------------

    @abstractmethod
    def _joint(self) -> Ising:
        """The joint problem over all units."""

    @abstractmethod
    def centred(self, offsets: Tensor) -> dict[str, Tensor]:
        """The parameters, same values, whose gradient is the centred one at unit `offsets` [n] (model's coding).

        For E = -v.W.h - b.v - c.h with offsets (mu, lambda): grad W - mu (grad c)' - (grad b) lambda', then
        grad b - (that) lambda and grad c - (that)' mu (Melchior, Fischer and Wiskott, JMLR 17(99), 2016).
        """

    @abstractmethod
    def set_visible_bias(self, data: Tensor, weight: Tensor | None = None) -> None:
        """Set the visible biases to the data's logits, smoothed by one count of each value; in place."""

    # ---- what follows ----------------------------------------------------------------------------------------

    @property
    def num_visible(self) -> int:
        """Visible units."""
        return len(self.visible_index)

    @property
    def num_hidden(self) -> int:
        """Hidden units."""
        return len(self.hidden_index)

    @property
    def tractable(self) -> bool:
        """Whether no two hidden units are coupled, so that they can be summed out given the visible ones."""
        return self.graph.without(self.visible_index).graph.num_edges == 0

    def ising(self, visible: Tensor | None = None) -> Ising:
        """The joint problem over all units; with `visible` [N, n_visible], one batch of N problems over the hidden.

        Both differentiable in the parameters; energies are the model's, constants included.
        """
        joint = self._joint()
        return joint if visible is None else joint.clamp(self.visible_index, self.encode(self.check(visible)))

    def energy(self, x: Shaped[Tensor, "... v"], hidden: Shaped[Tensor, "... h"]) -> Float[Tensor, "..."]:
        """E(x, hidden), differentiable in the parameters."""
        spins = self.join(x, hidden)
        return self._joint().energy(spins.reshape(-1, spins.shape[-1])).reshape(spins.shape[:-1])

    def free_energy(self, x: Shaped[Tensor, "batch v"]) -> Float[Tensor, " batch"]:
        r"""F(x) = -log sum over hidden of exp(-E(x, hidden)); F = offset - sum_j log 2 cosh h_j of the conditional.

        Raises:
            Intractable: hidden units are coupled to each other.
        """
        if not self.tractable:
            raise Intractable(
                "free_energy is intractable: hidden units are coupled to each other. Sample them instead, "
                "positive = sampler.sample(model.ising(visible=data), num), and pass positive= to cd_loss"
            )
        return self.free_energy_of_units(self.check(x))

    def free_energy_of_units(self, x: Tensor) -> Float[Tensor, " batch"]:
        """`free_energy` of rows that were checked before, or decoded: a training step looks at its data once."""
        conditional = self._joint().clamp(self.visible_index, self.encode(x))
        return conditional.offset - log_2cosh(conditional.h).sum(-1)

    def split(self, spins: Int[Tensor, "... n"]) -> tuple[Tensor, Tensor]:
        """Joint spins as `(x, hidden)` in the model's coding."""
        check_tensors(spins=spins)
        if spins.shape[-1:] != (self.graph.num_spins,):
            raise ValueError(f"expected joint spins of shape [*, {self.graph.num_spins}]; got {list(spins.shape)}")
        indices = zip(self._ranges, (self.visible_index, self.hidden_index), strict=True)
        x, hidden = (self.decode(spins[..., index if units is None else units]) for units, index in indices)
        return x, hidden

    def rows(self, data: Tensor, spins: Int[Tensor, "reads n"], dtype: torch.dtype) -> Tensor:
        """Checked data, then the visible units of joint spins, in one tensor of the model's coding and a dtype."""
        if spins.shape[1] != self.graph.num_spins:
            raise ValueError(f"expected joint spins of shape [*, {self.graph.num_spins}]; got {list(spins.shape)}")
        visible = spins[:, self.visible_index if self._ranges[0] is None else self._ranges[0]]
        _two_values(visible, -1, "spins")
        rows = torch.empty(len(data) + len(spins), self.num_visible, dtype=dtype, device=data.device)
        rows[: len(data)] = data
        if self.coding == "bits":
            torch.gt(visible, 0, out=rows[len(data) :])
        else:
            rows[len(data) :] = visible
        return rows

    def join(self, x: Tensor, hidden: Tensor) -> Int[Tensor, "... n"]:
        """`(x, hidden)` in the model's coding as joint int8 spins, the inverse of `split`; leading axes broadcast."""
        x, hidden = self.check(x), self._check(hidden, self.num_hidden, "hidden")
        shape = torch.broadcast_shapes(x.shape[:-1], hidden.shape[:-1])
        spins = torch.empty(*shape, self.graph.num_spins, dtype=torch.int8, device=x.device)
        spins[..., self.visible_index] = self.encode(x).expand(*shape, -1)
        spins[..., self.hidden_index] = self.encode(hidden).expand(*shape, -1)
        return spins

    def check(self, x: Tensor) -> Tensor:
        """`x` itself, or a ValueError that names what is wrong with it as data of this model."""
        return self._check(x, self.num_visible, "data")

    def check_rows(self, x: Tensor, name: str = "data") -> Tensor:
        """As `check`, for `[N, n_visible]` with N >= 1."""
        if isinstance(x, Tensor) and (x.dim() != 2 or len(x) == 0):
            raise ValueError(f"expected {name} of shape [N, {self.num_visible}] with N >= 1; got {list(x.shape)}")
        return self._check(x, self.num_visible, name)

    def _check(self, x: Tensor, width: int, name: str) -> Tensor:
        check_tensors(**{name: x})
        if x.dim() < 1 or x.shape[-1] != width:
            raise ValueError(f"expected {name} of shape [*, {width}]; got {list(x.shape)}")
        _two_values(x, 0 if self.coding == "bits" else -1, name)
        return x

    def encode(self, x: Tensor) -> Tensor:
        """Units in the model's coding as int8 spins."""
        return (2 * x - 1 if self.coding == "bits" else x).to(torch.int8)

    def decode(self, spins: Tensor) -> Tensor:
        """Spins (or their means) in the model's coding and dtype."""
        values = spins.to(next(self.parameters()).dtype)
        return (values + 1) / 2 if self.coding == "bits" else values

    # ---- the graph travels with the weights ----------------------------------------------------------------------

    def get_extra_state(self) -> Tensor:
        """The graph's identity, as bytes in a tensor, so that weights cannot be loaded into another graph."""
        hidden = hashlib.sha256(repr(self.hidden_index.tolist()).encode()).hexdigest()[:16]
        labels = hashlib.sha256(repr(list(self.graph.labels)).encode()).hexdigest()[:16]
        identity = {"model": type(self).__name__, "kind": self.graph.kind, "sizes": self.graph.sizes}
        text = json.dumps(identity | {"graph": self.graph.hash[:16], "labels": labels, "hidden": hidden})
        return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Nothing to set: `_load_from_state_dict` has compared it."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        if prefix + "_extra_state" in state_dict:
            self._refuse_others(state_dict[prefix + "_extra_state"])  # before any tensor is copied
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _refuse_others(self, state: Any) -> None:
        """A ValueError that names the first difference, for the weights of another model, graph or labelling."""
        theirs = json.loads(bytes(state.cpu().numpy()).decode())
        ours = json.loads(bytes(self.get_extra_state().numpy()).decode())
        for key, value in ours.items():
            if theirs.get(key) != value:
                raise ValueError(f"weights of another model: its {key} is {theirs.get(key)}, this one's {value}")


def _two_values(x: Tensor, low: int, name: str) -> None:
    """A ValueError unless all are `low` or 1."""
    plain = x.device.type == "cpu" and x.dtype != torch.bfloat16
    # NumPy looks on one thread, and is as fast; torch takes -1 for 255 in uint8, so it looks at floats
    number = x.detach().numpy() if plain else x if x.is_floating_point() else x.float()
    good = (number == low) | (number == 1)
    if not good.all():
        wrong = float(x[~torch.as_tensor(good)][0])
        raise ValueError(f"expected {name} of {'0 and 1' if low == 0 else '-1 and +1'} only; got {wrong:g}")


def _range(index: Tensor) -> slice | None:
    """Neighbouring numbers as a slice, which is read without gathering; None for others."""
    first, count = int(index[0]) if len(index) else 0, len(index)
    return slice(first, first + count) if torch.equal(index, first + torch.arange(count)) else None


class _Centre(torch.autograd.Function):
    """Identity on the parameters; turns their gradient into the centred one on the way back."""

    @staticmethod
    def forward(ctx: Any, back, *parameters: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore
        ctx.back = back
        return tuple(p.view_as(p) for p in parameters)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        return (None, *ctx.back(*grads))


def with_gradient(back, *parameters: Tensor) -> tuple[Tensor, ...]:
    """The parameters unchanged, with `back` (gradients to gradients) applied in the backward pass."""
    return _Centre.apply(back, *parameters)  # type: ignore[no-any-return]
