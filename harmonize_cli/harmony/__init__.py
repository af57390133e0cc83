"""Cross-modality gradient harmonization (arXiv 2211.02077), per sample, exact, for any torch model.

`Harmonizer` is the way in, `CachedStep` the same for large batches on small memory; `verify` compares a step
with brute force on a user's own model. Rules and gate decide. This package imports torch alone, and knows no
model.
"""

from harmonize_cli.harmony._cached import CachedStep
from harmonize_cli.harmony._harmonizer import Harmonizer
from harmonize_cli.harmony._policy import Gate
from harmonize_cli.harmony._report import HarmonyReport
from harmonize_cli.harmony._rule import RULES, Rule, make_rule, register_rule
from harmonize_cli.harmony._rules import conflict_cosine
from harmonize_cli.harmony._torchjd import TorchJDRule as _TorchJDRule  # noqa: F401 (registers itself)
from harmonize_cli.harmony._verify import Verification, verify

__all__ = [
    "RULES",
    "CachedStep",
    "Gate",
    "Harmonizer",
    "HarmonyReport",
    "Rule",
    "Verification",
    "conflict_cosine",
    "make_rule",
    "register_rule",
    "verify",
]
