from qsample.testing.sapi.chip import Chip as Chip
from qsample.testing.sapi.definitions import definition as definition
from qsample.testing.sapi.faults import EVERY as EVERY
from qsample.testing.sapi.faults import Fault as Fault
from qsample.testing.sapi.server import SolverServer as SolverServer

__all__: list[str]
