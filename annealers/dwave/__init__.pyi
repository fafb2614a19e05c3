from qsample.annealers.dwave.cloud.errors import BudgetExceeded as BudgetExceeded
from qsample.annealers.dwave.cloud.errors import ChargeWarning as ChargeWarning
from qsample.annealers.dwave.cloud.errors import DeviceError as DeviceError
from qsample.annealers.dwave.cloud.errors import Fallback as Fallback
from qsample.annealers.dwave.sampler import DWave as DWave
from qsample.sampling.sampler import OffTarget as OffTarget

__all__: list[str]

# isort: split
# Not public: pickles name them.
from qsample.annealers.dwave.cloud.secret import Secret  # noqa: E402, F401
from qsample.annealers.dwave.state import State  # noqa: E402, F401
