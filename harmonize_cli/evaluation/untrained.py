"""The same architecture with fresh weights: the baseline that a pre-trained backbone has to beat."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch

from harmonize_cli.models.base import make_model
from harmonize_cli.models.checkpoint import LoadedModel, read_settings


def untrained(loaded: LoadedModel, seed: int) -> LoadedModel:
    """`loaded` as it could have started, from `seed`: fresh weights behind inputs standardised as its own.

    Step 0, with a hash of its own weights.
    """
    config = read_settings(loaded.config["model"], f"{loaded.run}: model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make_model(config, loaded.specs)
    model.load_state_dict(loaded.model.input_statistics(), strict=False)
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    device = next(loaded.model.parameters()).device
    config_values = {**loaded.config, "seed": seed, "harmonize": {"mode": "untrained"}}
    return replace(
        loaded, model=model.to(device).eval(), weights_hash=digest.hexdigest(), step=0, config=config_values
    )
