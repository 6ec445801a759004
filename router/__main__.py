"""`python -m router` is `sluice route`."""

import sys

from sluice.cli import main

if __name__ == "__main__":
    main(["route", *sys.argv[1:]])
