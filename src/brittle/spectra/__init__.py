"""Recurrent matrices and Jacobians: spectra, pseudospectra and what follows from them. Arrays in, arrays out.

Every public name is imported here, right away, so that a name means the function and not the file it lives in.
"""

from brittle.spectra.pseudospectrum import error_floor as error_floor
from brittle.spectra.pseudospectrum import pseudospectrum as pseudospectrum
