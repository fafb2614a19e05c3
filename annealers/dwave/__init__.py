"""D-Wave's quantum processors as a sampler: placing, temperature, gauges, cost and failures handled."""

from qsample.annealers.dwave.errors import BudgetExceeded as BudgetExceeded
from qsample.annealers.dwave.errors import ChargeWarning as ChargeWarning
from qsample.annealers.dwave.errors import DeviceError as DeviceError
from qsample.annealers.dwave.errors import Fallback as Fallback
from qsample.annealers.dwave.sampler import DWave as DWave
from qsample.sampler import OffTarget as OffTarget
