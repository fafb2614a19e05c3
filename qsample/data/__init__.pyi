from qsample.data.batches import Batches as Batches
from qsample.data.dataset import Dataset as Dataset
from qsample.data.loading import load as load
from qsample.data.made import bars_and_stripes as bars_and_stripes
from qsample.data.made import planted_ising as planted_ising

__all__: list[str]
