"""Energy models: `nn.Module`s that say what is likely."""

from qsample.models.adaptive_penalty import AdaptivePenalty as AdaptivePenalty
from qsample.models.adaptive_penalty import reverse_rhat as reverse_rhat
from qsample.models.boltzmann import BoltzmannMachine as BoltzmannMachine
from qsample.models.copula import Denoised as Denoised
from qsample.models.copula import IsingCopula as IsingCopula
from qsample.models.denoising_loss import denoising_loss as denoising_loss
from qsample.models.energy import EnergyModel as EnergyModel
from qsample.models.energy import Intractable as Intractable
from qsample.models.rbm import BernoulliRBM as BernoulliRBM
from qsample.models.thermodynamic import DenoisingThermodynamicModel as DenoisingThermodynamicModel
