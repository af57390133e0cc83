"""BatchNorm whose statistics may span all ranks, on CPU (gloo) too: torch's SyncBatchNorm is CUDA only."""

import torch
from torch import Tensor, nn

from harmonize_cli.ranks import ranks, sum_over_ranks


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm over rows [N, D], momentum 0.1, eps 1e-5, affine; same state as `nn.BatchNorm1d`."""

    def __init__(self, features: int, *, sync: bool = True) -> None:
        super().__init__(features, eps=1e-5, momentum=0.1)
        self.sync = sync

    def forward(self, x: Tensor, running: bool = False, real: Tensor | None = None) -> Tensor:
        """Normalise x [N, D]; `running` uses the running statistics and leaves them as they are.

        real: [N] bool; in training mean and variance are those of these rows, for padding and absent
        modalities are no data. The others are normalised with them.
        """
        assert self.running_mean is not None
        assert self.running_var is not None
        if running or not self.training:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        if real is not None and real.device.type == "cpu" and bool(real.all()):  # a GPU would be waited for
            real = None
        across = self.sync and ranks() > 1
        if real is None and not across:
            return super().forward(x)
        wide = x if x.dtype == torch.float64 else x.float()
        counts = wide.new_ones(len(x), 1) if real is None else real.unsqueeze(1).to(wide)

        def total(x: Tensor) -> Tensor:
            return sum_over_ranks(x) if across else x

        totals = total(torch.cat([(wide * counts).sum(0), counts.sum(0)]))
        n = totals[-1].detach()
        mean = totals[:-1] / n.clamp(min=1)
        # a second sum instead of E[x^2] - mean^2, which cancels in float32
        var = total(((wide - mean).square() * counts).sum(0)) / n.clamp(min=1)
        with torch.no_grad():
            step = 0.1 * (n > 0).to(n)  # no rows at all: the statistics stay
            self.running_mean.lerp_(mean, step)
            self.running_var.lerp_(var * n / (n - 1).clamp(min=1), step)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        out: Tensor = (wide - mean) * (var + self.eps).rsqrt() * self.weight + self.bias
        return out.to(x.dtype)
