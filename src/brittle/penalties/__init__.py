"""Terms to train with: one file per penalty, a function of a live problem (one mini-batch) with a gradient to the module's parameters."""
