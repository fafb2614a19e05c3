from qsample.diffusion.absorbing import Absorbing as Absorbing
from qsample.diffusion.potts import Potts as Potts
from qsample.diffusion.potts import PottsGibbs as PottsGibbs
from qsample.diffusion.process import Uniform as Uniform
from qsample.diffusion.process import UniformBits as UniformBits
from qsample.diffusion.times import cosine_times as cosine_times
from qsample.diffusion.times import log_times as log_times
from qsample.integrations.diffusers.guidance import AnnealedGuidance as AnnealedGuidance
from qsample.integrations.diffusers.pipeline import IsingDiffusionPipeline as IsingDiffusionPipeline
from qsample.integrations.diffusers.scheduler import IsingScheduler as IsingScheduler
from qsample.neural.block_metropolis import BlockMetropolis as BlockMetropolis
from qsample.neural.cycle import Cycle as Cycle
from qsample.neural.energy import Counted as Counted
from qsample.neural.gibbs_with_gradients import GibbsWithGradients as GibbsWithGradients
from qsample.neural.langevin import DiscreteLangevin as DiscreteLangevin
from qsample.neural.site_gibbs import SiteGibbs as SiteGibbs
from qsample.neural.surrogates import first_order as first_order
from qsample.neural.surrogates import linear as linear
from qsample.neural.surrogates import regression as regression
from qsample.neural.surrogates import secant as secant
from qsample.neural.surrogates import second_order as second_order
from qsample.neural.surrogates import taylor as taylor
from qsample.neural.tempered import TemperedTransitions as TemperedTransitions

__all__: list[str]

# isort: split
# Not public: a pipeline that is loaded looks beside its scheduler for the class that loads it.
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: E402, F401
