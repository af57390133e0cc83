"""Scope `representation`: the losses are compared where they first meet, at the pooled vectors."""

import torch
from torch import Tensor

from harmonize_cli.errors import BadInput
from harmonize_cli.harmony.cut import Cut
from harmonize_cli.harmony.granularity import sum_units
from harmonize_cli.harmony.sums import Buffers


def representation_gram(cut: Cut, units: int) -> Tensor:
    """[U, K, K] from the cotangents of the pooled vectors that at least two losses reach.

    With L_va and L_vt that is the video vector; the audio and text vectors know one loss only and would
    leave b as it is while inflating a and c.

    Raises:
        BadInput: no pooled vector is reached by two losses.
    """
    K = len(cut.losses)
    first = next(d for of in cut.delta for d in of if d is not None)
    dtype = torch.float64 if first.dtype == torch.float64 else torch.float32
    gram = torch.zeros(cut.samples, K, K, dtype=dtype, device=first.device)
    buffers = Buffers()
    met = False
    for m in range(len(cut.pooled)):
        rows = {k: of[m] for k, of in enumerate(cut.delta)}
        here = {k: d.reshape(cut.samples, -1) for k, d in rows.items() if d is not None}
        if len(here) < 2 and K > 1:
            continue
        met = True
        for k, d in here.items():
            for other, e in here.items():
                gram[:, k, other] += buffers.dot(d, e)
    if not met:
        raise BadInput("scope representation: no pooled vector is reached by two losses")
    return sum_units(gram, units)
