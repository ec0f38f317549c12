"""Secrets that systemd hands to a unit as files (`LoadCredential=`, see systemd.exec(5)). They are written nowhere."""

from collections.abc import Mapping
from pathlib import Path


def credential_path(name: str, environ: Mapping[str, str]) -> Path | None:
    """Where the credential `name` lies; None outside of a unit that has any. The file may be missing."""
    place = environ.get("CREDENTIALS_DIRECTORY")
    return Path(place) / name if place else None


def read_secret(path: Path) -> str:
    """What is in the file, without blanks around it; empty where there is none that can be read."""
    try:
        return path.read_text().strip()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return ""
