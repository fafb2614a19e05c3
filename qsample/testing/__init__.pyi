from qsample.testing.contract import FALSE_ALARM as FALSE_ALARM
from qsample.testing.contract import Case as Case
from qsample.testing.contract import ContractError as ContractError
from qsample.testing.contract import check_sampler as check_sampler
from qsample.testing.contract import g_test as g_test
from qsample.testing.verdicts import Verdict as Verdict
from qsample.testing.verdicts import Verdicts as Verdicts

__all__: list[str]
