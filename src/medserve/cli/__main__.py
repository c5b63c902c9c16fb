"""`python -m medserve.cli`."""

from medserve.cli import main

main()
