"""BatchNorm in the heads counts data alone: neither padding captions nor modalities that a sample lacks."""

import copy

import pytest
import torch

from harmonize_cli.models.config import HeadConfig
from harmonize_cli.models.heads import build_head
from harmonize_cli.models.norm import BatchNorm

WIDTHS = {"video": 6, "audio": 5, "text": 4}


def _world(kind: str) -> tuple[torch.nn.Module, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A head in training, pooled vectors whose rows that are no data lie far off, and which rows are data."""
    torch.manual_seed(0)
    head = build_head(WIDTHS, HeadConfig.model_validate({"kind": kind, "va": 8, "vt": 7})).double().train()
    B, C = 8, 3
    real = {
        "video": torch.arange(B) != 2,
        "audio": torch.arange(B) % 3 != 1,
        "text": torch.arange(C) <= torch.arange(B)[:, None] % 4 - 1,  # 0 to 3 captions
    }
    pooled = {}
    for modality, width in WIDTHS.items():
        z = torch.randn(*real[modality].shape, width, dtype=torch.float64)
        z[~real[modality]] += 50
        pooled[modality] = z.requires_grad_()
    return head, pooled, real


@pytest.mark.parametrize("kind", ["fac", "joint"])
def test_rows_that_are_no_data_change_nothing(kind: str) -> None:
    head, pooled, real = _world(kind)
    alone = copy.deepcopy(head)
    out = head(pooled, real)
    for modality, z in pooled.items():
        expected = alone({modality: z[real[modality]]})
        for name, rows in expected.items():
            if name == "audio_vt" and kind == "fac":
                continue  # carried by the video's running statistics
            assert out[name].shape[:-1] == real[modality].shape
            assert out[name].isfinite().all()
            torch.testing.assert_close(out[name][real[modality]], rows)
            weight = torch.randn_like(rows)
            ours = torch.autograd.grad((out[name][real[modality]] * weight).sum(), z, retain_graph=True)
            theirs = torch.autograd.grad((rows * weight).sum(), z, retain_graph=True)
            torch.testing.assert_close(ours, theirs)
    for name, buffer in head.named_buffers():
        torch.testing.assert_close(buffer, alone.get_buffer(name))


@pytest.mark.parametrize("kind", ["fac", "joint"])
def test_a_batch_without_a_modality_leaves_its_statistics(kind: str) -> None:
    head, pooled, real = _world(kind)
    before = {name: x.clone() for name, x in head.named_buffers() if "num_batches" not in name}
    out = head(pooled, {modality: torch.zeros_like(rows) for modality, rows in real.items()})
    assert all(x.isfinite().all() for x in out.values())
    assert all(torch.equal(head.get_buffer(name), x) for name, x in before.items())


def test_where_all_is_data_nothing_is_different() -> None:
    torch.manual_seed(0)
    norm, x = BatchNorm(5).train(), torch.randn(9, 5)
    assert torch.equal(norm(x, real=torch.ones(9, dtype=torch.bool)), norm(x))
