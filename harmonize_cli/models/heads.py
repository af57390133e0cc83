"""Projection heads: fine-and-coarse (VATT section 3.3) and the joint one."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from harmonize_cli.models.config import HeadConfig
from harmonize_cli.models.norm import BatchNorm


class FacHead(nn.Module):
    """video -> va -> vt, audio -> va, text -> vt; every choice of bias and norm as in VATT's code.

    forward(pooled {"video": [B, D], "audio": [B, D], "text": [B, C, D]}, real) -> embeddings, not normalised:
    video_va, audio_va [B, va]; video_vt [B, vt]; text_vt [B, C, vt]; and audio_vt [B, vt], the audio
    embedding carried through the video's step from va to vt (with that step's running statistics, so that
    audio leaves no trace in them). Missing modalities are left out.

    real: bool per modality, [B] or text [B, C], False for rows that are no data (absent in that sample, or
    padding): in training they stay out of the statistics. Without it all rows count.
    """

    def __init__(self, widths: Mapping[str, int], config: HeadConfig) -> None:
        super().__init__()
        self.carry_audio = True
        """Make audio_vt in training too; no loss but audio-text needs it."""
        if "video" in widths:
            self.video_va = nn.Sequential(
                nn.Linear(widths["video"], config.va, bias=False),
                BatchNorm(config.va, sync=config.sync_batch_norm),
                nn.ReLU(),
                nn.Linear(config.va, config.va, bias=False),
                BatchNorm(config.va, sync=config.sync_batch_norm),
            )
            self.va_vt = nn.Linear(config.va, config.vt, bias=False)
            self.vt_norm = BatchNorm(config.vt, sync=config.sync_batch_norm)
        if "audio" in widths:
            self.audio_va = nn.Linear(widths["audio"], config.va)
        if "text" in widths:
            self.text_vt = nn.Linear(widths["text"], config.vt)

    def forward(
        self, pooled: Mapping[str, Tensor], real: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """See the class."""
        out: dict[str, Tensor] = {}
        if "video" in pooled:
            x, seen = pooled["video"], (real or {}).get("video")
            for layer in self.video_va:
                x = layer(x, real=seen) if isinstance(layer, BatchNorm) else layer(x)
            out["video_va"] = x
            out["video_vt"] = self.vt_norm(self.va_vt(relu(x)), real=seen)
        if "audio" in pooled:
            out["audio_va"] = self.audio_va(pooled["audio"])
            if hasattr(self, "va_vt") and (self.carry_audio or not self.training):
                out["audio_vt"] = self.vt_norm(self.va_vt(relu(out["audio_va"])), running=True)
        if "text" in pooled:
            out["text_vt"] = self.text_vt(pooled["text"])
        return out


class JointHead(nn.Module):
    """ReLU -> linear -> BatchNorm for each modality into one space; va and vt are the same vectors."""

    def __init__(self, widths: Mapping[str, int], config: HeadConfig) -> None:
        super().__init__()
        self.proj = nn.ModuleDict({m: nn.Linear(width, config.va) for m, width in widths.items()})
        self.norm = nn.ModuleDict({m: BatchNorm(config.va, sync=config.sync_batch_norm) for m in widths})

    def forward(
        self, pooled: Mapping[str, Tensor], real: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """As `FacHead`."""
        out: dict[str, Tensor] = {}
        for modality, z in pooled.items():
            seen = (real or {}).get(modality)
            flat = self.proj[modality](relu(z)).flatten(0, -2)
            flat = self.norm[modality](flat, real=None if seen is None else seen.flatten())
            joint = flat.view(*z.shape[:-1], -1)
            out.update(dict.fromkeys(_JOINT_NAMES[modality], joint))
        return out


_JOINT_NAMES = {"video": ("video_va", "video_vt"), "audio": ("audio_va", "audio_vt"), "text": ("text_vt",)}


def build_head(widths: Mapping[str, int], config: HeadConfig) -> nn.Module:
    """The head that `config.kind` names."""
    with torch.no_grad():
        return FacHead(widths, config) if config.kind == "fac" else JointHead(widths, config)
