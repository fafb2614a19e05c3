"""A loopback solver API: D-Wave's own client over HTTP to our engine, with limits, costs and faults."""

from qsample.testing.sapi.chip import Chip as Chip
from qsample.testing.sapi.definitions import definition as definition
from qsample.testing.sapi.faults import EVERY as EVERY
from qsample.testing.sapi.faults import Fault as Fault
from qsample.testing.sapi.server import SolverServer as SolverServer
