"""Public data sets and folders as they come, each turned into manifest rows.

One file per data set registers its layout and the benchmark that is measured on it.
"""

from harmonize_cli.datasets.dataset_folder import DatasetFolder, LayoutOptions, Need
from harmonize_cli.datasets.layouts.base import LAYOUTS, Benchmark, Entry, Found, Layout, register

__all__ = [
    "LAYOUTS", "Benchmark", "DatasetFolder", "Entry", "Found", "Layout", "LayoutOptions", "Need", "register",
]  # fmt: skip
