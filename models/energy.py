"""What every energy model offers to the estimators: the model's side of the contract."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn.utils import parametrize

from qsample.models.identity import Identified, short_hash
from qsample.models.pretrained import Pretrained
from qsample.models.units import Units
from qsample.problem.enumeration import log_2cosh
from qsample.problem.graph import Graph, check_graph
from qsample.problem.ising import Ising
from qsample.support.checks import check_tensors
from qsample.support.faces import public
from qsample.support.transforms import is_transformed, numbers, uncompiled

Coding = Literal["bits", "spins"]


@public("qsample.models")
class Intractable(ValueError):
    """The quantity would need a sum over coupled hidden spins.

    The message names the call that samples it.
    """


@public("qsample.models")
class EnergyModel(Pretrained, Identified, ABC):
    r"""A Boltzmann law over visible data x and hidden units.

    $p(x, hidden) \propto e^{-E(x, hidden)}$.

    Data and hidden units are in the model's own coding, {0,1} (`coding == "bits"`) or -1/+1
    (`"spins"`).

    One rule for all models and for any leading dimensions `[*, n]`, none included: `energy` and
    `free_energy` are multilinear in x and in the hidden units, differentiable in both, and take
    what lies between the two values as well as the values themselves. What is sampled or learnt
    from (`ising(visible=)`, `join`, `cd_loss`) takes the two values only.

    Args:
        graph: the problem over all units.
        hidden: numbers of the hidden spins, `[n_hidden]`.
        coding: "bits" for units of {0,1}, "spins" for -1/+1.
    """

    #: the parameters by name, in the order of `weights`
    names: ClassVar[tuple[str, ...]]

    def __init__(self, graph: Graph, hidden: Tensor, coding: Coding) -> None:
        super().__init__()
        check_graph(graph)
        self.graph = graph
        self.coding = coding
        self.units = Units.of(graph, hidden)
        self._acting: tuple[Tensor, ...] | None = None

    # ---- what a model defines ----------------

    @abstractmethod
    def _joint(self) -> Ising:
        """The joint problem over all units."""

    @abstractmethod
    def centred(self, weights: tuple[Tensor, ...], offsets: Tensor) -> tuple[Tensor, ...]:
        """`weights`, same values, whose gradient is the centred one at unit `offsets`.

        For E = -v.W.h - b.v - c.h with offsets (mu, lambda): grad W - mu (grad c)' - (grad b)
        lambda', then grad b - (that) lambda and grad c - (that)' mu (Melchior, Fischer and Wiskott,
        JMLR 17(99), 2016). Biases make up for what a change of the couplings does to the mean;
        where either is frozen there is nothing to make up for, and the gradient is the plain one.

        Args:
            weights: the parameters as they act, in the order of `names`.
            offsets: means of the units, `[n]`, in the model's coding.
        """

    @abstractmethod
    def set_visible_bias(self, data: Tensor, weight: Tensor | None = None) -> None:
        """Set the visible biases to the data's logits, smoothed by one count of each value.

        Args:
            data: rows `[N, n_visible]` in the model's coding.
            weight: of the rows, `[N]`; equal by default.
        """

    # ---- parameters as they act ----------------

    def weights(self) -> tuple[Tensor, ...]:
        """The parameters as they enter the energy, in the order of `names`.

        Parametrisations are computed.
        """
        if self._acting is not None:
            return self._acting
        # of pruning and the older norms: a model has no forward
        for hook in self._forward_pre_hooks.values():
            if type(hook).__module__.startswith("torch.nn.utils."):
                hook(self, ())
        return tuple(getattr(self, name) for name in self.names)

    @contextmanager
    def acting(self, weights: tuple[Tensor, ...]) -> Iterator[None]:
        """Let these tensors be `weights()`, for a while.

        They may be computed once, detached, or have another gradient.

        A parametrisation may answer differently each time (`spectral_norm` iterates), and its
        parameters cannot be replaced by name.
        """
        before = self._acting
        self._acting = weights
        try:
            yield
        finally:
            self._acting = before

    @torch.no_grad()
    def set_parameter(self, name: str, value: Tensor) -> None:
        """Set a parameter in place, or what makes it where it is parametrised.

        Raises:
            ValueError: its parametrisation has no right inverse.
        """
        if not parametrize.is_parametrized(self, name):
            getattr(self, name).copy_(value)
            return
        try:
            setattr(self, name, value)
        except (NotImplementedError, RuntimeError):
            raise ValueError(
                f"{name} is parametrised without a right_inverse, so it cannot be set"
            ) from None

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def visible_index(self) -> Tensor:
        """Numbers of the visible spins, ascending."""
        return self.units.visible.on(self.device)

    @property
    def hidden_index(self) -> Tensor:
        """Numbers of the hidden spins, ascending."""
        return self.units.hidden.on(self.device)

    # ---- what follows ----------------

    def extra_repr(self) -> str:
        """Sizes, for `print(model)`."""
        return f"{self.num_visible} visible, {self.num_hidden} hidden, {self.graph.kind}"

    @property
    def num_visible(self) -> int:
        """Visible units."""
        return len(self.units.visible)

    @property
    def num_hidden(self) -> int:
        """Hidden units."""
        return len(self.units.hidden)

    @property
    def tractable(self) -> bool:
        """Whether no two hidden units are coupled, so that they can be summed out given x."""
        return self.units.given.graph.num_edges == 0

    def ising(self, visible: Tensor | None = None) -> Ising:
        """The joint problem over all units, or the conditional problems of the hidden ones.

        Both differentiable in the parameters; energies are the model's, constants included.

        Args:
            visible: data `[*, n_visible]`, of which each row makes a problem over the hidden units;
                None for the joint problem.
        """
        if visible is not None:
            self.check(visible)
        joint = self._joint()
        return joint if visible is None else joint.given(self.units.given, self._spins(visible))

    def energy(
        self, x: Shaped[Tensor, "... v"], hidden: Shaped[Tensor, "... h"]
    ) -> Float[Tensor, "..."]:
        """E(x, hidden), `[*]`; differentiable in the parameters and in the units.

        Args:
            x: data `[*, n_visible]`.
            hidden: hidden units `[*, n_hidden]`; leading axes broadcast.
        """
        self._check_between(x, self.num_visible, "data")
        self._check_between(hidden, self.num_hidden, "hidden")
        shape = torch.broadcast_shapes(x.shape[:-1], hidden.shape[:-1])
        parts = [self._spins(units).expand(*shape, -1) for units in (x, hidden)]
        spins = torch.cat(parts, -1)[..., self.units.order.on(x.device)]
        return self._joint().energy(spins.reshape(-1, self.graph.num_spins)).reshape(shape)

    def free_energy(self, x: Shaped[Tensor, "*batch v"]) -> Float[Tensor, "*batch"]:
        r"""$F(x) = -\log \sum_{hidden} e^{-E(x, hidden)}$, data `[*, n_visible]` to `[*]`.

        It is $\mathrm{offset} - \sum_j \log 2\cosh h_j$ of the conditional problem, differentiable
        in the parameters and in x.

        Raises:
            Intractable: hidden units are coupled to each other.
            ValueError: x of another width, or outside the two values and what lies between.
        """
        if not self.tractable:
            raise Intractable(
                "free_energy is intractable: hidden units are coupled to each other. Sample them "
                "instead, positive = sampler.sample(model.ising(visible=data), num), and pass "
                "positive= to cd_loss"
            )
        self._check_between(x, self.num_visible, "data")
        return self.free_energy_of_units(x)

    def free_energy_of_units(self, x: Tensor) -> Float[Tensor, "*batch"]:
        """`free_energy` of rows that were checked before, or decoded.

        A training step looks at its data once.
        """
        conditional = self._joint().given(self.units.given, self._spins(x))
        return conditional.offset - log_2cosh(conditional.h).sum(-1)

    def split(self, spins: Int[Tensor, "... n"]) -> tuple[Tensor, Tensor]:
        """Joint spins as `(x, hidden)` in the model's coding."""
        check_tensors(spins=spins)
        if spins.shape[-1:] != (self.graph.num_spins,):
            raise ValueError(
                f"expected joint spins of shape [*, {self.graph.num_spins}]; got "
                f"{list(spins.shape)}"
            )
        visible, hidden = self.units.ranges
        x = spins[..., self.units.visible.on(spins.device) if visible is None else visible]
        latent = spins[..., self.units.hidden.on(spins.device) if hidden is None else hidden]
        return self.decode(x), self.decode(latent)

    def rows(self, data: Tensor, spins: Int[Tensor, "reads n"], dtype: torch.dtype) -> Tensor:
        """Data, then the visible units of joint spins, in one tensor of the model's coding.

        Args:
            data: checked rows `[N, n_visible]`.
            spins: joint spins `[reads, n]`.
            dtype: of the result `[N + reads, n_visible]`.
        """
        if spins.shape[1] != self.graph.num_spins:
            raise ValueError(
                f"expected joint spins of shape [*, {self.graph.num_spins}]; got "
                f"{list(spins.shape)}"
            )
        span = self.units.ranges[0]
        visible = spins[:, self.units.visible.on(spins.device) if span is None else span]
        _two_values(visible, -1, "spins")
        # which cannot be written into a plain tensor
        if is_transformed(data) or is_transformed(visible):
            return torch.cat([data.to(dtype), self.decode(visible).to(dtype)])
        rows = torch.empty(
            len(data) + len(spins), self.num_visible, dtype=dtype, device=data.device
        )
        rows[: len(data)] = data
        if self.coding == "bits":
            torch.gt(visible, 0, out=rows[len(data) :])
        else:
            rows[len(data) :] = visible
        return rows

    def join(self, x: Tensor, hidden: Tensor) -> Int[Tensor, "... n"]:
        """`(x, hidden)` in the model's coding as joint int8 spins, the inverse of `split`.

        Leading axes broadcast.
        """
        x = self.check(x)
        hidden = self._check(hidden, self.num_hidden, "hidden")
        shape = torch.broadcast_shapes(x.shape[:-1], hidden.shape[:-1])
        parts = [self.encode(units).expand(*shape, -1) for units in (x, hidden)]
        return torch.cat(parts, -1)[..., self.units.order.on(x.device)]

    def check(self, x: Tensor) -> Tensor:
        """`x` itself, or a ValueError that names what is wrong with it as data of this model."""
        return self._check(x, self.num_visible, "data")

    def check_rows(self, x: Tensor, name: str = "data") -> Tensor:
        """As `check`, for `[N, n_visible]` with N >= 1."""
        if isinstance(x, Tensor) and (x.dim() != 2 or len(x) == 0):
            raise ValueError(
                f"expected {name} of shape [N, {self.num_visible}] with N >= 1; got {list(x.shape)}"
            )
        return self._check(x, self.num_visible, name)

    def _check(self, x: Tensor, width: int, name: str) -> Tensor:
        self._check_width(x, width, name)
        _two_values(x, 0 if self.coding == "bits" else -1, name)
        return x

    def _check_between(self, x: Tensor, width: int, name: str) -> None:
        """An error unless `x` are units of this model, or lie between their two values."""
        self._check_width(x, width, name)
        _between(x, 0 if self.coding == "bits" else -1, name)

    @staticmethod
    def _check_width(x: Tensor, width: int, name: str) -> None:
        check_tensors(**{name: x})
        if x.dim() < 1 or x.shape[-1] != width:
            raise ValueError(f"expected {name} of shape [*, {width}]; got {list(x.shape)}")

    def encode(self, x: Tensor) -> Tensor:
        """Units in the model's coding as int8 spins."""
        return (2 * x - 1 if self.coding == "bits" else x).to(torch.int8)

    def _spins(self, x: Tensor) -> Tensor:
        """Units, or what lies between, as spins in the parameters' dtype; differentiable."""
        x = x.to(self.weights()[0].dtype)
        return 2 * x - 1 if self.coding == "bits" else x

    def decode(self, spins: Tensor) -> Tensor:
        """Spins (or their means) in the model's coding and dtype."""
        values = spins.to(next(self.parameters()).dtype)
        return (values + 1) / 2 if self.coding == "bits" else values

    # ---- the graph travels with the weights ----------------

    def _identity(self) -> dict[str, Any]:
        return {
            "model": own_class(self).__name__,
            "kind": self.graph.kind,
            "sizes": self.graph.sizes,
            "graph": self.graph.hash[:16],
            "labels": short_hash(list(self.graph.labels)),
            "hidden": short_hash(self.units.hidden.cpu.tolist()),
        }


def own_class(model: nn.Module) -> type:
    """The model's class as written: torch makes subclasses of it (`parametrize`, `fully_shard`)."""
    return next(kind for kind in type(model).__mro__ if not kind.__module__.startswith("torch."))


def column_sums(data: Tensor, weight: Tensor | None) -> Tensor:
    """The sum over N rows of data; with weights `[N]`, N times their weighted mean."""
    if weight is None:
        return data.sum(0)
    return weight.to(data) @ data / weight.sum() * len(data)


def normal(std: Tensor, generator: torch.Generator | None) -> Tensor:
    """Normal numbers of standard deviations `std`, for new parameters.

    `std` is on the CPU; they are on the default device.
    """
    if torch.get_default_device().type == "meta":  # has no numbers, and takes no generator
        return torch.empty_like(std, device="meta")
    drawn = torch.randn(std.shape, generator=generator)
    if not any(std.stride()):  # one number, which need not be copied to a device so often
        std = std.flatten()[:1]
    return drawn.mul_(std.to(drawn))  # in place: they may take most of the memory


@uncompiled
def _two_values(x: Tensor, low: int, name: str) -> None:
    """A ValueError unless all are `low` or 1."""
    if x.is_meta:
        return
    number = numbers(x)
    good = (number == low) | (number == 1)
    if not good.all():
        wrong = float(number[~good].reshape(-1)[0])
        raise ValueError(
            f"expected {name} of {'0 and 1' if low == 0 else '-1 and +1'} only; got {wrong:g}"
        )


def _between(x: Tensor, low: int, name: str) -> None:
    """A ValueError unless all lie between `low` and 1; integers must be one of them."""
    if torch.compiler.is_compiling() or x.is_meta:  # a look at values would break the graph
        return
    if not x.is_floating_point():
        _two_values(x, low, name)
        return
    number = numbers(x)
    inside = (number >= low) & (number <= 1)
    if not inside.all():
        wrong = float(number[~inside].reshape(-1)[0])
        values = "0 and 1" if low == 0 else "-1 and +1"
        raise ValueError(f"expected {name} of {values}, or between them; got {wrong:g}")
    zero = number == 0
    if low == -1 and zero.any() and (number == 1).any() and (zero | (number == 1)).all():
        raise ValueError(
            f"expected {name} of -1 and +1; got 0 and 1 only: 2 * bits - 1 makes spins of bits"
        )


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
    """The parameters, with `back` (gradients to gradients) applied in the backward pass."""
    return _Centre.apply(back, *parameters)  # type: ignore[no-any-return]
