"""`harmonize export ...`: runs and stores in the formats of other tools."""

from harmonize_cli.cli.app import App
from harmonize_cli.cli.exporters import EXPORTERS

app = App(help="Write a run's encoder, its embeddings, or a store for other tools.", no_args_is_help=True)
for name, exporter in EXPORTERS.items():
    app.command(name)(exporter)
