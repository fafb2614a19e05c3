from qsample.sampling.random import Generators as Generators
from qsample.sampling.random import draw_seeds as draw_seeds
from qsample.sampling.random import mix as mix
from qsample.sampling.sampler import OffTarget as OffTarget
from qsample.sampling.sampler import Sampler as Sampler
from qsample.sampling.sampler import Stateful as Stateful
from qsample.sampling.sampler import check_request as check_request
from qsample.sampling.samples import Estimate as Estimate
from qsample.sampling.samples import Exactness as Exactness
from qsample.sampling.samples import Samples as Samples

__all__: list[str]
