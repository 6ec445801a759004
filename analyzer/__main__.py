"""`python -m analyzer` is `sluice analyze`."""

import sys

from sluice.cli import main

main(["analyze", *sys.argv[1:]])
