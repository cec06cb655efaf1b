"""A latent diffusion engine written by hand, and the queue in front of it.

Importing this package loads no torch: only `generation.engine.engine` and what it stands on do.
"""

import os

# On Intel's CPUs MKL shares the sums of some matrix products out among the threads, and then they
# have other last bits on two threads than on one. This forbids it, at no measurable cost ("Strict
# CNR mode", oneMKL developer guide, "Obtaining Numerically Reproducible Results"). MKL reads it at
# its first product, so it has to be there before.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
