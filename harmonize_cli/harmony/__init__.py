"""Cross-modality gradient harmonization (arXiv 2211.02077), per sample, exact, for any torch model.

`Harmonizer` is the way in; rules, gate and controls decide, `gram` and `layers` measure.
"""

from harmonize_cli.harmony._gate import Gate
from harmonize_cli.harmony._report import HarmonyReport
from harmonize_cli.harmony._rule import RULES, Rule, make_rule, register_rule
from harmonize_cli.harmony._rules import conflict_cosine
from harmonize_cli.harmony._torchjd import TorchJDRule as _TorchJDRule  # noqa: F401 (registers itself)
from harmonize_cli.harmony.harmonizer import Harmonizer

__all__ = [
    "RULES",
    "Gate",
    "Harmonizer",
    "HarmonyReport",
    "Rule",
    "conflict_cosine",
    "make_rule",
    "register_rule",
]
