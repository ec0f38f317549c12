"""adamctl as root on another user's run acts as that user: what root wrote there, the run's own processes could not change."""

import os
import pwd
from pathlib import Path


def act_as_owner(root: Path) -> None:
    """Give up root for the owner of the run directory `root`, where there is one and it is not root's."""
    if os.geteuid() != 0 or not root.is_dir():
        return
    uid = root.stat().st_uid
    if uid == 0:
        return
    try:
        known = pwd.getpwuid(uid)
        gid, name, home = known.pw_gid, known.pw_name, known.pw_dir
    except KeyError:
        gid, name, home = root.stat().st_gid, "", "/"
    os.initgroups(name, gid) if name else os.setgroups([gid])
    os.setgid(gid)
    os.setuid(uid)
    os.environ["HOME"] = home
