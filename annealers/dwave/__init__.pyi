from qsample.annealers.dwave.cloud.errors import BudgetExceeded as BudgetExceeded
from qsample.annealers.dwave.cloud.errors import ChargeWarning as ChargeWarning
from qsample.annealers.dwave.cloud.errors import DeviceError as DeviceError
from qsample.annealers.dwave.cloud.errors import Fallback as Fallback
from qsample.annealers.dwave.sampler import DWave as DWave
from qsample.sampling.sampler import OffTarget as OffTarget

__all__: list[str]
