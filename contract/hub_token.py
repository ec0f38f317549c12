"""The Hub's token: from the environment, a systemd credential, or the Hub's own file. It is written nowhere."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from adam.contract.credentials import credential_path, read_secret

CREDENTIAL = "hf_token"


def hub_token(environ: Mapping[str, str] = os.environ) -> str | None:
    """The first that there is of $HF_TOKEN, $CREDENTIALS_DIRECTORY/hf_token, and the file that `hf auth login` writes."""
    if token := environ.get("HF_TOKEN", "").strip():
        return token
    return next((token for path in token_files(environ) if (token := read_secret(path))), None)


def token_files(environ: Mapping[str, str]) -> list[Path]:
    credential = credential_path(CREDENTIAL, environ)
    cache = environ.get("XDG_CACHE_HOME") or f"{environ.get('HOME', '/')}/.cache"
    home = environ.get("HF_HOME") or f"{cache}/huggingface"
    own = Path(environ.get("HF_TOKEN_PATH") or f"{home}/token")
    return [credential, own] if credential else [own]


def token_mark(token: str | None) -> str:
    """Another one for another token, and no help in finding it."""
    return hashlib.sha256(f"adam {token}".encode()).hexdigest()[:12] if token else ""


def without(text: str, token: str | None) -> str:
    """`text` with the token, should a library have put it there, struck out."""
    return text.replace(token, "(token)") if token else text
