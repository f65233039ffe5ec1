from .losses.contrastive import HSCL as HSCL, HUCL as HUCL, SCL as SCL, UCL as UCL, contrastive_loss as contrastive_loss
from .losses.cross import CrossLoss as CrossLoss, cross_loss as cross_loss
from .losses.distributed import DistributedLoss as DistributedLoss
from .losses.estimators import SampledLoss as SampledLoss
from .losses.general import GeneralLoss as GeneralLoss
from .losses.hard import HardNegativeRankingLoss as HardNegativeRankingLoss
from .losses.explicit import ranking_loss as ranking_loss
from .losses.relatives import NTXent as NTXent, SupCon as SupCon
from .losses.temperature import LearnedTau as LearnedTau
from .measures.collapse import CollapseReport as CollapseReport, collapse_report as collapse_report
from .measures.meter import CollapseMeter as CollapseMeter
from .measures.ranks import retrieval_scores as retrieval_scores
from .runs.config import RunConfig as RunConfig
from .runs.counterparts import diagnose_pairs as diagnose_pairs
from .runs.diagnose import diagnose as diagnose
from .runs.folder import run as run
from .runs.live import playground as playground
from .runs.monitor import monitor as monitor
from .runs.pairs import explore as explore
from .theory.bounds import scl_bound as scl_bound, ucl_bound as ucl_bound
from .theory.certificate import certificate as certificate
from .theory.etf import simplex_etf as simplex_etf
from .theory.hucl import hucl_bound as hucl_bound
from .theory.optimum import batch_bound as batch_bound
from .training.batches import batches as batches
from .training.datasets import load_dataset as load_dataset
from .training.docstrings import docstring_pairs as docstring_pairs
from .training.encoders import make_encoder as make_encoder
from .training.loop import train as train
from .training.mining import mine_negatives as mine_negatives

__version__: str
