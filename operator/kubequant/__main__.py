"""`python -m kubequant`."""

from kubequant.cli.main import main

main()
