"""What can go wrong with a device, in one line each."""

from __future__ import annotations

from qsample.support.faces import public


@public("qsample.annealers.dwave")
class DeviceError(OSError):
    """The device cannot serve; the message says what to do.

    An `OSError`, as a `ConnectionError` is: the fault lies outside of the program.
    """


class Unavailable(DeviceError):
    """The device or the way to it failed: a `fallback` sampler, if one is named, serves instead."""


@public("qsample.annealers.dwave")
class BudgetExceeded(DeviceError):
    """A submission would cost more than is left; nothing of it was submitted."""


@public("qsample.annealers.dwave")
class Fallback(UserWarning):
    """Another sampler served in place of the device."""


@public("qsample.annealers.dwave")
class ChargeWarning(UserWarning):
    """The service reported an access time that cannot be right; the message says the charge."""
