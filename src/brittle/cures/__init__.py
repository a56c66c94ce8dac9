"""Repairs without training: from a module to a new module, one per file.

Every cure is imported here, right away, so that its name means the function and not the file it lives in.
"""

from brittle.cures.constrain import constrain as constrain
from brittle.cures.initialisation import initialisation as initialisation
from brittle.cures.normalise import normalise as normalise
from brittle.cures.projection import projection as projection
from brittle.cures.residual_rnn import residual_rnn as residual_rnn
from brittle.cures.surgery import surgery as surgery
