"""Recurrent matrices and Jacobians: spectra, pseudospectra and what follows from them. Arrays in, arrays out.

Every public name is imported here, right away, so that a name means the function and not the file it lives in.
"""

from brittle.spectra.batched import batched as batched
from brittle.spectra.commutator import commutator as commutator
from brittle.spectra.contours import contours as contours
from brittle.spectra.contours import whole_window as whole_window
from brittle.spectra.differentiable import differentiable as differentiable
from brittle.spectra.distance_to_defective import distance_to_defective as distance_to_defective
from brittle.spectra.distance_to_instability import distance_to_instability as distance_to_instability
from brittle.spectra.eigenvalue_conditions import eigenvalue_conditions as eigenvalue_conditions
from brittle.spectra.eigenvector_condition import eigenvector_condition as eigenvector_condition
from brittle.spectra.henrici import henrici as henrici
from brittle.spectra.henrici_bounds import henrici_bounds as henrici_bounds
from brittle.spectra.kreiss import kreiss as kreiss
from brittle.spectra.nearest_defective import nearest_defective as nearest_defective
from brittle.spectra.nearest_unstable import nearest_unstable as nearest_unstable
from brittle.spectra.null_models import null_models as null_models
from brittle.spectra.null_models import same_spectrum_normal as same_spectrum_normal
from brittle.spectra.numerical_radius import numerical_radius as numerical_radius
from brittle.spectra.numerical_radius import numerical_radius_bounds as numerical_radius_bounds
from brittle.spectra.numerical_range import numerical_range as numerical_range
from brittle.spectra.projected import projected as projected
from brittle.spectra.pseudospectral_abscissa import pseudospectral_abscissa as pseudospectral_abscissa
from brittle.spectra.pseudospectral_radius import pseudospectral_radius as pseudospectral_radius
from brittle.spectra.pseudospectrum import error_floor as error_floor
from brittle.spectra.pseudospectrum import pseudospectrum as pseudospectrum
from brittle.spectra.spectral_norm import spectral_norm as spectral_norm
from brittle.spectra.spectral_radius import spectral_radius as spectral_radius
from brittle.spectra.transient import transient as transient
from brittle.spectra.value_and_gradient import value_and_gradient as value_and_gradient
