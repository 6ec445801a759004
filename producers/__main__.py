"""`python -m producers` is `sluice replay`."""

import sys

from sluice.cli import main

if __name__ == "__main__":
    main(["replay", *sys.argv[1:]])
