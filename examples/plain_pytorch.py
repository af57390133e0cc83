"""Harmonize any PyTorch model with two losses: here an ordinary one that knows nothing of harmonize.

    python examples/plain_pytorch.py

A small network sees noisy digits and is trained to name the digit and to rebuild the clean picture. Both
losses read one vector per sample; where a sample's two gradients conflict in the network, they are realigned.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from harmonize_cli.harmony import Harmonizer


def main(steps: int = 200) -> tuple[float, float]:
    """Train, print what harmonization saw, return the accuracy and the share in conflict at the end."""
    torch.manual_seed(0)
    digits = load_digits()
    clean, label = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    body = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.LayerNorm(128), nn.Linear(128, 32))
    model = nn.ModuleDict({"body": body, "name": nn.Linear(32, 10), "rebuild": nn.Linear(32, 64)})
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    harmonizer = Harmonizer(model, scope="body", rule="realign")
    for step in range(steps):
        rows = torch.randint(0, 1500, (64,))
        noisy = clean[rows] + 0.3 * torch.randn(64, 64)
        optimizer.zero_grad()
        with harmonizer.record():
            z = model["body"](noisy)
            losses = {
                "name": cross_entropy(model["name"](z), label[rows]),
                "rebuild": mse_loss(model["rebuild"](z), clean[rows]),
            }
        report = harmonizer.backward(losses, z, step=step)  # in place of sum(losses.values()).backward()
        optimizer.step()

    with torch.no_grad():
        right = model["name"](model["body"](clean[1500:])).argmax(1) == label[1500:]
    accuracy, conflict = right.float().mean().item(), report.scalars()["conflict_share"]
    print(f"accuracy on unseen digits {accuracy:.2f}; {conflict:.0%} of the last batch in conflict")
    return accuracy, conflict


if __name__ == "__main__":
    main()
