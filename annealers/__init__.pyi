from qsample.annealers.annealed_importance import AnnealedImportance as AnnealedImportance
from qsample.annealers.composites.corrected import Corrected as Corrected
from qsample.annealers.dwave import DWave as DWave
from qsample.annealers.exact import Exact as Exact
from qsample.annealers.from_callable import FromCallable as FromCallable
from qsample.annealers.gate.proposal import QuantumProposal as QuantumProposal
from qsample.annealers.gate.sampler import QAOA as QAOA
from qsample.annealers.gibbs import Gibbs as Gibbs
from qsample.annealers.ocean.dimod import AsDimod as AsDimod
from qsample.annealers.ocean.dimod import DimodAnnealer as DimodAnnealer
from qsample.annealers.ocean.neal import Neal as Neal
from qsample.annealers.parallel_tempering import ParallelTempering as ParallelTempering
from qsample.annealers.population_annealing import PopulationAnnealing as PopulationAnnealing
from qsample.annealers.simulated_annealing import SimulatedAnnealing as SimulatedAnnealing
from qsample.annealers.tempered_transitions import TemperedGibbs as TemperedGibbs
from qsample.annealers.trajectory_tempering import TrajectoryTempering as TrajectoryTempering

__all__: list[str]
