"""Noise indicators, one small file each. Every module of this folder is found by itself."""

import importlib
import pkgutil

from harmonize_cli.curriculum.indicators.base import REGISTRY, Indicator, register

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["REGISTRY", "Indicator", "register"]
