from qsample.diffusion.reverse_step import Denoised as Denoised
from qsample.models.boltzmann import BoltzmannMachine as BoltzmannMachine
from qsample.models.diffusion.ising_copula import IsingCopula as IsingCopula
from qsample.models.diffusion.potts_copula import PottsCopula as PottsCopula
from qsample.models.diffusion.thermodynamic import (
    DenoisingThermodynamicModel as DenoisingThermodynamicModel,
)
from qsample.models.diffusion.thermodynamic_loss import denoising_loss as denoising_loss
from qsample.models.diffusion.thermodynamic_penalty import AdaptivePenalty as AdaptivePenalty
from qsample.models.diffusion.thermodynamic_penalty import reverse_rhat as reverse_rhat
from qsample.models.energy import EnergyModel as EnergyModel
from qsample.models.energy import Intractable as Intractable
from qsample.models.rbm.bernoulli import BernoulliRBM as BernoulliRBM

__all__: list[str]

# isort: split
# Not public: pickles name them.
from qsample.models.diffusion.visible_bits import VisibleBits  # noqa: E402, F401
from qsample.models.units import FixedIndex, Units  # noqa: E402, F401
