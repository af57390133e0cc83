"""Which samples an epoch draws, by weight: a pure function of (plan, seed, epoch), the same on every rank.

So a resume needs nothing but the step number, and ranks need not talk: `training.data.Schedule` cuts the
order into each rank's batches.
"""

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


def weighted_order(rows: Rows, weights: NDArray[np.float64], seed: int, epoch: int) -> Rows:
    """As many draws as there are `rows` [N], sample i drawn N w_i / sum(w) times on average, shuffled.

    Systematic draws: a sample comes floor or ceil of its expected number of times, so equal weights give
    every sample exactly once. Weight 0 never comes.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    mixed = rng.permutation(len(rows))
    ends = np.cumsum(weights[mixed])
    if not ends[-1] > 0:
        raise ValueError("no sample has a weight above 0")
    points = (np.arange(len(rows)) + rng.random()) * (ends[-1] / len(rows))
    drawn = mixed[np.minimum(np.searchsorted(ends, points, side="right"), len(rows) - 1)]
    return np.asarray(rng.permutation(rows[drawn]))
