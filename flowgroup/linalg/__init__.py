"""Batched small-matrix algebra."""

from flowgroup.linalg.cholesky import cholesky, congruence, inverse_congruence
from flowgroup.linalg.derivative import jvp
from flowgroup.linalg.eigh import eigh
from flowgroup.linalg.log_cholesky import exp_cholesky, log_cholesky
from flowgroup.linalg.matrix_exp import matrix_exp
from flowgroup.linalg.means import geometric_mean
from flowgroup.linalg.nearest import nearest_frame, nearest_rotation
from flowgroup.linalg.permute import permute
from flowgroup.linalg.polar import polar
from flowgroup.linalg.scalar_functions import ScalarFunction
from flowgroup.linalg.spectral import Spectrum, funm, invsqrtm, logm, powm, sqrtm
from flowgroup.linalg.sylvester import lyapunov, sylvester
from flowgroup.linalg.symmetric_exponential import expm
from flowgroup.linalg.triangular import matvec, solve_triangular
from flowgroup.linalg.triangular_functions import tril_inverse, tril_log, unitriangular_exp, unitriangular_log
from flowgroup.linalg.vech import from_tril_vector, tril_vector, unvech, vech

__all__ = [
    "ScalarFunction",
    "Spectrum",
    "cholesky",
    "congruence",
    "eigh",
    "exp_cholesky",
    "expm",
    "from_tril_vector",
    "funm",
    "geometric_mean",
    "inverse_congruence",
    "invsqrtm",
    "jvp",
    "log_cholesky",
    "logm",
    "lyapunov",
    "matrix_exp",
    "matvec",
    "nearest_frame",
    "nearest_rotation",
    "permute",
    "polar",
    "powm",
    "solve_triangular",
    "sqrtm",
    "sylvester",
    "tril_inverse",
    "tril_log",
    "tril_vector",
    "unitriangular_exp",
    "unitriangular_log",
    "unvech",
    "vech",
]
