"""What an error of a far place means, in a line. Told by what the error carries, so that no library is imported for it."""

from adam.watchdog.upload_words import Trouble

WORDS = {
    401: "it does not know the token (HF_TOKEN, a systemd credential hf_token, or `hf auth login`)",
    403: "the token may not write there",
    404: "there is no such place",
    413: "it is too large for it",
    429: "too many requests",
}


def trouble_of(error: Exception, where: str) -> Trouble:
    response = getattr(error, "response", None)
    status = int(getattr(response, "status_code", 0) or 0)
    if status:
        text = f"{where} answers {status}: {WORDS.get(status) or first_line(error)}"
        return Trouble(text, status, retry_after(response.headers.get("Retry-After", "") if response else ""))
    return Trouble(f"{where} can't be reached or read: {type(error).__name__}: {first_line(error)}")


def retry_after(header: str) -> float:
    """Seconds; the form with a date is not used by the Hub."""
    return float(header) if header.isdigit() else 0.0


def first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else "no more is known"
