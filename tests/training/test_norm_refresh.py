"""BatchNorm's statistics taken anew: those of the video's rows, untouched by sound on its way to the text."""

import torch

from harmonize_cli.data.batches import StoreDataset
from harmonize_cli.data.windows import InputsConfig, resolve_inputs
from harmonize_cli.models.config import ModelConfig
from harmonize_cli.models.vatt import Vatt
from harmonize_cli.store.reader import Store
from harmonize_cli.training.norm_statistics import measure


def test_statistics_are_the_videos_own(store_path):
    store = Store.open(store_path)
    specs = resolve_inputs(store, InputsConfig())
    torch.manual_seed(0)
    model = Vatt(ModelConfig(width=32, heads=2, layers=1, feedforward=32), specs).train()
    batches = list(StoreDataset(store, specs).batches(range(24), 8))
    before = {name: x.clone() for name, x in model.state_dict().items()}
    found = measure(model, batches, torch.device("cpu"))
    assert model.training
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    with torch.no_grad():
        rows = model.head.video_va[0](torch.cat([model.encode(b.inputs)["video"] for b in batches]))
    torch.testing.assert_close(found["head.video_va.1.running_mean"], rows.mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found["head.video_va.1.running_var"], rows.var(0), atol=1e-5, rtol=1e-4)
    for batch in batches:
        del batch.inputs["audio"]
    again = measure(model, batches, torch.device("cpu"))
    torch.testing.assert_close(again["head.vt_norm.running_mean"], found["head.vt_norm.running_mean"])
