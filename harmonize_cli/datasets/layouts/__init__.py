"""Public data sets and folders as they come, each turned into manifest rows.

One file per data set registers its layout and the benchmark that is measured on it.
"""

from harmonize_cli.datasets.layouts.base import (
    LAYOUTS,
    Benchmark,
    Found,
    Layout,
    LayoutOptions,
    Need,
    register,
)

__all__ = ["LAYOUTS", "Benchmark", "Found", "Layout", "LayoutOptions", "Need", "register"]
