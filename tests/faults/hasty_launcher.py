"""The launcher, with a template after one second and trust in it at once: for tests that end trainers every few seconds."""

import sys

from adam.contract.errors import run_main
from adam.contract.output import never_fail
from adam.watchdog import launcher

launcher.CHECK_S, launcher.LIVED_S = 1.0, 0.05

if __name__ == "__main__":
    never_fail()
    sys.exit(run_main("launcher", launcher.main))
