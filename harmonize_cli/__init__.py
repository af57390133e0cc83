"""Video-audio-text pre-training with cross-modality gradient harmonization.

What scripts use stands here (docs/python.md) and is imported on first use: `import harmonize_cli` is cheap.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harmonize_cli.curriculum.pretrain import pretrain
    from harmonize_cli.curriculum.score import score
    from harmonize_cli.evaluation.task import evaluate
    from harmonize_cli.extraction.pipeline import extract
    from harmonize_cli.models.checkpoint import load_model
    from harmonize_cli.store.reader import Store

__version__ = "0.1.0"
__all__ = ["Store", "evaluate", "extract", "load_model", "pretrain", "score"]

_MODULES = {
    "Store": "store.reader",
    "evaluate": "evaluation.task",
    "extract": "extraction.pipeline",
    "load_model": "models.checkpoint",
    "pretrain": "curriculum.pretrain",
    "score": "curriculum.score",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
