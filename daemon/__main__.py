"""`python -P -m adam.daemon`: adamctl."""

import sys

from adam.daemon.cli import main

if __name__ == "__main__":
    sys.exit(main())
