from qsample import annealers as annealers
from qsample import data as data
from qsample import diffusion as diffusion
from qsample import metrics as metrics
from qsample import models as models
from qsample import sampling as sampling
from qsample import sklearn as sklearn
from qsample import testing as testing
from qsample.evaluation.diagnostics import diagnose as diagnose
from qsample.evaluation.evidence import EvidenceTerms as EvidenceTerms
from qsample.evaluation.evidence import evidence_bound as evidence_bound
from qsample.evaluation.evidence import evidence_terms as evidence_terms
from qsample.evaluation.fidelity import Fidelity as Fidelity
from qsample.evaluation.fidelity import Measure as Measure
from qsample.evaluation.fidelity import model_fidelity as model_fidelity
from qsample.evaluation.likelihood import log_likelihood as log_likelihood
from qsample.evaluation.likelihood import log_partition as log_partition
from qsample.evaluation.likelihood import model_log_partition as model_log_partition
from qsample.evaluation.likelihood import pseudo_log_likelihood as pseudo_log_likelihood
from qsample.learning.callbacks import Callback as Callback
from qsample.learning.contrastive import ContrastiveDivergence as ContrastiveDivergence
from qsample.learning.contrastive import Start as Start
from qsample.learning.contrastive import cd_loss as cd_loss
from qsample.learning.fit import fit as fit
from qsample.learning.reinforcement.agent import AgentSettings as AgentSettings
from qsample.learning.reinforcement.agent import FreeEnergyAgent as FreeEnergyAgent
from qsample.learning.reinforcement.critic import FreeEnergyCritic as FreeEnergyCritic
from qsample.learning.reinforcement.critic import layered_machine as layered_machine
from qsample.learning.saved import SavedRun as SavedRun
from qsample.learning.saved import load_run as load_run
from qsample.learning.settings import Settings as Settings
from qsample.learning.tensorboard import TensorBoard as TensorBoard
from qsample.problem.graph import Graph as Graph
from qsample.problem.ising import Ising as Ising
from qsample.problem.transverse import transverse_field as transverse_field
from qsample.sampling.sampler import Sampler as Sampler
from qsample.sampling.samples import Bracket as Bracket
from qsample.sampling.samples import Estimate as Estimate
from qsample.sampling.samples import Exactness as Exactness
from qsample.sampling.samples import ReliabilityWarning as ReliabilityWarning
from qsample.sampling.samples import Samples as Samples
from qsample.sampling.samples import Side as Side
from qsample.sampling.temperature import effective_beta as effective_beta

__all__: list[str]

# isort: split
# Not public: pickles name them.
from qsample.problem.graph import Clamping  # noqa: E402, F401
