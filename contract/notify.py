"""sd_notify: a line to systemd, where it listens."""

import os
import socket


def notify(message: str) -> bool:
    """Send `READY=1`, `WATCHDOG=1`, `STATUS=…` to systemd. False where no systemd listens (then nothing is done)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.settimeout(1.0)
        try:
            sender.sendto(message.encode(), address)
        except OSError:
            return False  # systemd is restarting: the next line will reach it
    return True
