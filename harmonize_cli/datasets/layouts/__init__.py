"""Benchmarks and folders as they come, each turned into manifest rows; one file a data set."""

from harmonize_cli.datasets.layouts.audiocaps import AUDIOCAPS
from harmonize_cli.datasets.layouts.audioset import AUDIOSET
from harmonize_cli.datasets.layouts.base import Found, Layout, LayoutOptions, Need
from harmonize_cli.datasets.layouts.esc50 import ESC50
from harmonize_cli.datasets.layouts.folder import FOLDER
from harmonize_cli.datasets.layouts.hmdb51 import HMDB51
from harmonize_cli.datasets.layouts.howto100m import HOWTO100M
from harmonize_cli.datasets.layouts.kinetics import KINETICS
from harmonize_cli.datasets.layouts.msrvtt import MSRVTT
from harmonize_cli.datasets.layouts.ucf101 import UCF101
from harmonize_cli.datasets.layouts.webdataset import WEBDATASET
from harmonize_cli.datasets.layouts.youcook2 import YOUCOOK2
from harmonize_cli.datasets.layouts.youtube8m import YOUTUBE8M

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        HOWTO100M,
        AUDIOSET,
        YOUTUBE8M,
        MSRVTT,
        YOUCOOK2,
        UCF101,
        HMDB51,
        KINETICS,
        ESC50,
        AUDIOCAPS,
        FOLDER,
        WEBDATASET,
    )
}

__all__ = ["LAYOUTS", "Found", "Layout", "LayoutOptions", "Need"]
