"""`python -m dashboard` is `sluice dashboard`."""

import sys

from sluice.cli import main

main(["dashboard", *sys.argv[1:]])
