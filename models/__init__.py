"""Energy models: `nn.Module`s that say what is likely."""

from qsample.models.boltzmann import BoltzmannMachine as BoltzmannMachine
from qsample.models.copula import Denoised as Denoised
from qsample.models.copula import IsingCopula as IsingCopula
from qsample.models.energy import EnergyModel as EnergyModel
from qsample.models.energy import Intractable as Intractable
from qsample.models.rbm import BernoulliRBM as BernoulliRBM
