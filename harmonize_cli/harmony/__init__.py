"""Cross-modality gradient harmonization (arXiv 2211.02077), per sample, exact, for any torch model.

`Harmonizer` is the way in; `rules`, `gate` and `controls` decide, `gram` and `layers` measure.
"""

from harmonize_cli.harmony.gate import Gate
from harmonize_cli.harmony.harmonizer import Harmonizer
from harmonize_cli.harmony.report import HarmonyReport
from harmonize_cli.harmony.rules import RULES, make_rule

__all__ = ["RULES", "Gate", "Harmonizer", "HarmonyReport", "make_rule"]
