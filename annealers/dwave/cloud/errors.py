"""What can go wrong with a device, in one line each."""

from __future__ import annotations


class DeviceError(OSError):
    """The device cannot serve (as a `ConnectionError` is one of the system's); the message says what to do."""


class Unavailable(DeviceError):
    """The device or the way to it failed: a `fallback` sampler, if one is named, serves instead."""


class BudgetExceeded(DeviceError):
    """A submission would cost more than is left; nothing of it was submitted."""


class Fallback(UserWarning):
    """Another sampler served in place of the device."""


class ChargeWarning(UserWarning):
    """The service reported an access time that cannot be right; what was charged in its place is said."""
