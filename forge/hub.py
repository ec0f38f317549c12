"""Data sets of the Hugging Face Hub: pinned, listed, streamed. `datasets` knows which files a configuration and split are.

The bytes come by huggingface_hub's file system, in ranges, so that nothing has to be stored and any place of a file can be gone on
from; the readers are the same as for files of this machine, so a bad record costs that record here too.
"""

import fnmatch
from pathlib import PurePosixPath
from typing import IO, Any

from adam.contract.config_forge import Source
from adam.contract.errors import DataError
from adam.forge.files import ending, extra

BLOCK = 8 << 20  # bytes that one request asks for
LATER = "it is tried again; check the network"


class HubFile:
    """A file of a data set at one revision."""

    def __init__(self, repo: str, revision: str, path: str, size: int, digest: str) -> None:
        self.repo, self.revision, self.path, self.size, self.digest = repo, revision, path, size, digest

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    @property
    def url(self) -> str:
        return f"hf://datasets/{self.repo}@{self.revision}/{self.path}"

    def open(self, _mode: str) -> IO[bytes]:
        from huggingface_hub import HfFileSystem

        opened: IO[bytes] = HfFileSystem(expand_info=False).open(self.url, "rb", block_size=BLOCK)
        return opened


class HubError(DataError):
    """A set that can't be had; `lasting`: waiting does not help."""

    def __init__(self, text: str, todo: str, *, lasting: bool) -> None:
        super().__init__(text, todo)
        self.lasting = lasting


def explained(repo: str, error: BaseException) -> HubError:  # noqa: PLR0911  (a table of errors)
    """What an error of the Hub's libraries means, and what to do about it."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/datasets/{repo}"
    if isinstance(
        error, errors.LocalEntryNotFoundError
    ):  # which is called an EntryNotFoundError, and says that nobody answered
        return _away(repo, error)
    status = getattr(getattr(error, "response", None), "status_code", 0)
    if isinstance(error, errors.GatedRepoError):
        return HubError(f"{repo} is gated", f"accept its terms at {page} and give a token (HF_TOKEN)", lasting=True)
    if isinstance(error, errors.DisabledRepoError):
        return HubError(f"{repo} was disabled by the Hub", "choose another set", lasting=True)
    if isinstance(error, errors.RevisionNotFoundError):
        return HubError(f"{repo} has no such revision", "correct its revision in adam.toml", lasting=True)
    if isinstance(error, errors.RepositoryNotFoundError):
        todo = "correct the name; a private or gated one needs a token (HF_TOKEN)"
        return HubError(f"{repo} is not on the Hub: removed, renamed or private", todo, lasting=True)
    if isinstance(error, errors.EntryNotFoundError | FileNotFoundError) or status == 404:
        return HubError(
            f"{repo} has lost a file that it had", "take it anew with `adamctl forge --rebuild`", lasting=True
        )
    if status in (401, 403):
        return HubError(
            f"{repo}: the Hub refuses the token ({status})", "give one that may read it (HF_TOKEN)", lasting=True
        )
    return _away(repo, error)


def _away(repo: str, error: BaseException) -> HubError:
    reason = (str(error).splitlines() or [""])[0][:200]
    return HubError(
        f"{repo} can't be reached: {type(error).__name__}{f' ({reason})' if reason else ''}", LATER, lasting=False
    )


def _of_the_hub(error: BaseException) -> BaseException | None:
    """What the Hub said, where that is behind an error of `datasets`, which shows it as text only."""
    from huggingface_hub import errors

    behind: BaseException | None = error
    while behind is not None and not (
        hasattr(behind, "response") or isinstance(behind, errors.LocalEntryNotFoundError)
    ):
        behind = behind.__cause__ or behind.__context__
    return behind


def dataset_info(repo: str, revision: str) -> Any:
    """What the Hub says of a set, its files with sizes included. Raises HubError."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(repo, revision=revision or None, files_metadata=True, timeout=30)
    except Exception as error:  # noqa: BLE001  (network libraries raise what they like; `explained` says what it was)
        raise explained(repo, error) from None


def check_access(repo: str) -> None:
    """Raise HubError where the files of a gated set are not for this token: its list of files is for everybody."""
    from huggingface_hub import HfApi

    try:
        HfApi().auth_check(repo, repo_type="dataset")
    except Exception as error:  # noqa: BLE001  (as above)
        raise explained(repo, error) from None


def list_files(source: Source, revision: str) -> tuple[str, list[HubFile]]:
    """(commit, the files of a source's configuration and split in order). Raises HubError, DataError."""
    info = dataset_info(source.id, revision or source.revision)
    if info.gated:
        check_access(source.id)
    there = {file.rfilename: file for file in info.siblings}
    if source.files:
        chosen = [name for name in sorted(there) if any(fnmatch.fnmatch(name, pattern) for pattern in source.files)]
        if not chosen:
            raise DataError(f"{source.id} has no file like {', '.join(source.files)}", "correct files in adam.toml")
    else:
        chosen = _files_of_split(source, info)
    files = [
        HubFile(
            source.id,
            info.sha,
            name,
            there[name].size or 0,
            there[name].lfs.sha256 if there[name].lfs else there[name].blob_id,
        )
        for name in chosen
        if name in there
    ]
    return info.sha, files


def script_of(info: Any) -> str:
    """The loading script of a set, empty where it has none."""
    script = info.id.rpartition("/")[2] + ".py"
    return script if any(file.rfilename == script for file in info.siblings) else ""


def _files_of_split(source: Source, info: Any) -> list[str]:
    if script := script_of(info):
        todo = f'name its files (files = ["data/*.parquet"]) or another set: see https://huggingface.co/datasets/{source.id}'
        raise HubError(f"{source.id} is made by a script ({script}), which is never run", todo, lasting=True)
    datasets = extra("datasets", "sets of the Hub")
    try:
        builder = datasets.load_dataset_builder(source.id, source.config or None, revision=info.sha)
        found = builder.config.data_files or {}
    except (ValueError, FileNotFoundError) as error:
        if (said := _of_the_hub(error)) is not None:
            raise explained(source.id, said) from None
        raise HubError(
            f"{source.id}: {str(error).splitlines()[0]}", "correct config in adam.toml", lasting=True
        ) from None
    except Exception as error:  # noqa: BLE001  (as above)
        raise explained(source.id, error) from None
    split = source.split or "train"
    if split not in found:
        raise HubError(f"{source.id} has no split {split!r}", f"it has {', '.join(map(str, found))}", lasting=True)
    prefix = f"hf://datasets/{source.id}@{info.sha}/"
    return [url.removeprefix(prefix) for url in map(str, found[split])]


def open_first(file: HubFile) -> None:
    """Fetch the first bytes of a file. Raises HubError."""
    try:
        with file.open("rb") as opened:
            opened.read(1)
    except Exception as error:  # noqa: BLE001  (as above)
        raise explained(file.repo, error) from None


def readable(files: list[HubFile], known: set[str]) -> list[HubFile]:
    """Those that a reader knows."""
    return [file for file in files if ending(file.name) in known]
