"""D-Wave's quantum processors as a sampler: placing, temperature, gauges, cost and failures handled."""

from qsample.annealers.dwave.errors import BudgetExceeded as BudgetExceeded
from qsample.annealers.dwave.errors import DeviceError as DeviceError
from qsample.annealers.dwave.errors import OffTarget as OffTarget
from qsample.annealers.dwave.sampler import DWave as DWave
