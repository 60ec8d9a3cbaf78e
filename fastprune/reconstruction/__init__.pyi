from .layer_fit import LayerFit as LayerFit
from .layerwise import Solver as Solver
from .layerwise import reconstruct as reconstruct
from .samples import Samples as Samples
from .sums import Statistics as Statistics
