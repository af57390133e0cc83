"""`python -m harmonize_cli` is the command `harmonize`."""

from harmonize_cli.cli.main import main

main()
