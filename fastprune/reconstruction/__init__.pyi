from .layer_fit import LayerFit as LayerFit
from .layerwise import Solver as Solver
from .layerwise import reconstruct as reconstruct
from .ridge import regression as regression
from .ridge import ridge as ridge
from .samples import Samples as Samples
from .stitching import Stitching as Stitching
from .sums import Statistics as Statistics
