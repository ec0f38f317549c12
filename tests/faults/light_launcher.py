"""The launcher over a trainer without torch, with a template at once. The trainer says what it is and does nothing, whatever it is sent."""

import sys

from adam.contract.errors import run_main
from adam.contract.output import never_fail
from adam.watchdog import launcher

TRAINER = """
import os, signal, sys, time
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, frame: print("asked", number, flush=True))
print("copy" if "--template" in sys.argv else "fresh", os.environ["ADAM_TOKEN"], flush=True)
while True:
    time.sleep(60)
"""
TEMPLATE = (
    "import sys\nfrom adam.trainer.template import await_birth\nif await_birth(int(sys.argv[-1])):"
    + TRAINER.replace("\n", "\n  ")
)

launcher.CHECK_S, launcher.LIVED_S = 0.1, 0.0
launcher.PROGRAMS["trainer"] = (sys.executable, "-P", "-c", TRAINER)
launcher.template_command = lambda run: [sys.executable, "-P", "-c", TEMPLATE, "--run", str(run), "--template"]

if __name__ == "__main__":
    never_fail()
    sys.exit(run_main("launcher", launcher.main))
