"""Named entities by a spaCy model, in processes, text by text: what is found hangs on the text alone.

Texts are not put together in batches of the model: the sums of a matrix product may depend on how many rows it has, so a
document's entities would on its neighbours, and bytes of the shards on where a killed forge had stopped. It costs nothing: at
4,000 characters a document both ways find 7,000 words a second.
"""

import functools
import importlib.util
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from adam.contract.errors import AdamError, ConfigError
from adam.contract.process import die_with_parent, name_process
from adam.forge.masking import Entity
from adam.forge.parts import pieces

if TYPE_CHECKING:
    from spacy.language import Language

FINDERS = ("ner", "entity_ruler")  # components of spaCy that find entities
JOB_CHARS = 16_000  # of one call of a process: under a second
TICK_S = 0.5
# spaCy's tokenizer takes these off a word one by one, and looks at all the rest each time: 32,000 brackets take a minute.
PEELED = re.compile(r"(?:['’]s|[^\w\s]|_){200,}", re.IGNORECASE)
TORCH = re.compile(rb"torch|transformer", re.IGNORECASE)


class Model(NamedTuple):
    """A spaCy model that is there.

    Attributes:
        directory: with its config.cfg.
        version: language, name and version, for the manifest.
        torch: its network is one of PyTorch.
    """

    directory: Path
    version: str
    torch: bool


class _Meta(msgspec.Struct):
    """What we read of a model's meta.json."""

    lang: str
    name: str
    version: str
    pipeline: list[str] = []
    labels: dict[str, list[str]] = {}


def find_model(name: str, run: Path, labels: Sequence[str]) -> Model:
    """A package or folder that holds a spaCy model which knows these labels. Loads nothing.

    Raises ConfigError where there is no such model, with the command that installs it; where it finds no entities, or not these.
    """
    said = f'forge.skeletons.model = "{name}"'
    if importlib.util.find_spec("spacy") is None:
        raise ConfigError(f"{said} needs spaCy, which is not installed", f"{sys.executable} -m pip install spacy")
    folder = Path(run, name).expanduser()
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    inside = spec is not None and spec.submodule_search_locations
    top = Path(inside[0]) if inside else folder
    try:
        meta = msgspec.json.decode((top / "meta.json").read_bytes(), type=_Meta)
        directory = top / f"{meta.lang}_{meta.name}-{meta.version}" if inside else top
        torch = TORCH.search((directory / "config.cfg").read_bytes()) is not None
    except (OSError, msgspec.DecodeError) as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError) and not inside:
            command = (
                f"{sys.executable} -m spacy download {name}" if name.isidentifier() else "name a package or a folder"
            )
            raise ConfigError(f"{said}: no such spaCy model is installed", command) from None
        raise ConfigError(f"{said}: {top} is no spaCy model: {error}") from None
    known = {label for finder in FINDERS for label in meta.labels.get(finder, ())}
    if not set(FINDERS) & set(meta.pipeline):
        raise ConfigError(f"{said} finds no entities: its components are {', '.join(meta.pipeline) or 'none'}")
    if unknown := [label for label in labels if label not in known]:
        raise ConfigError(f"{said} does not know {', '.join(unknown)}", f"it knows {', '.join(sorted(known))}")
    return Model(directory, f"{meta.lang}_{meta.name} {meta.version}", torch)


class Recogniser:
    """Finds the entities of texts in processes of its own; they end with this one, however it ends.

    Args:
        processes: 0: one for each core that this process may use.
        tick: a sign of life while they work.
    """

    def __init__(self, model: Model, processes: int, tick: Callable[[], object]) -> None:
        self._directory, self._tick = str(model.directory), tick
        # Not forked: the parent may have threads by now, and a forked child their locks.
        self._pool = ProcessPoolExecutor(
            processes or len(os.sched_getaffinity(0)),
            mp_context=get_context("spawn"),
            initializer=_enter_process,
            initargs=(os.getpid(), model.torch),
        )

    def ask(self, texts: Sequence[str]) -> Callable[[], list[list[Entity] | str]]:
        """Begin with `texts`; what is given back waits for them. Both raise AdamError where a process has died.

        Of each text its entities in order, or what the model said where it failed on it.
        """
        jobs = list(_jobs(texts))
        with _told():
            futures = [self._pool.submit(_find, self._directory, [piece for *_, piece in job]) for job in jobs]

        def entities() -> list[list[Entity] | str]:
            found: list[list[Entity] | str] = [[] for _ in texts]
            for job, future in zip(jobs, futures, strict=True):
                with _told():
                    results = self._result(future)
                for (number, offset, _), result in zip(job, results, strict=True):
                    so_far = found[number]
                    if isinstance(result, str):
                        found[number] = result
                    elif not isinstance(so_far, str):
                        so_far += [Entity(start + offset, end + offset, label) for start, end, label in result]
            return found

        return entities

    def _result(self, future: "Future[_Found]") -> "_Found":
        while not future.done():
            wait([future], timeout=TICK_S)
            self._tick()
        return future.result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        raise AdamError(
            "a process that finds entities was killed", "is there memory for all? see forge.skeletons.processes"
        ) from None


def _jobs(texts: Sequence[str]) -> Iterator[list[tuple[int, int, str]]]:
    """(number of the text, offset in it, piece) in lists of about JOB_CHARS. Long texts are cut where a paragraph ends."""
    job: list[tuple[int, int, str]] = []
    size = 0
    for number, text in enumerate(texts):
        offset = 0
        for piece in pieces(text):
            job.append((number, offset, piece))
            offset += len(piece)
            size += len(piece)
            if size >= JOB_CHARS:
                yield job
                job, size = [], 0
    if job:
        yield job


_Found = list[list[tuple[int, int, str]] | str]


def _enter_process(parent: int, torch: bool) -> None:
    die_with_parent(parent)
    name_process("adam-ner")
    # An end is asked of the parent alone; it then lets these go.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if not torch:
        # spaCy would import it where it is installed, for models like this one in vain: 200 MB and two seconds a process.
        sys.modules["torch"] = None  # type: ignore[assignment]


def _find(directory: str, texts: list[str]) -> _Found:
    """In a process of the pool."""
    model = load_finder(directory)
    with model.memory_zone():  # words that were met are forgotten, or memory would grow with the corpus
        return [_entities(model, text) for text in texts]


def _entities(model: "Language", text: str) -> list[tuple[int, int, str]] | str:
    text = PEELED.sub(lambda found: " " * len(found[0]), text)
    try:
        return [(entity.start_char, entity.end_char, entity.label_) for entity in model(text).ents]
    except Exception as error:  # noqa: BLE001  (whatever the model raises costs this one document; it is counted and logged)
        return f"{type(error).__name__}: {error}"


@functools.cache
def load_finder(directory: str) -> "Language":
    """The model with nothing switched on but what finds entities, and what that listens to. Raises ConfigError."""
    import spacy

    try:
        model = spacy.load(directory)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"the spaCy model {directory} can't be loaded: {error}".replace("\n", " ")) from None
    finders = [name for name in model.pipe_names if name in FINDERS]
    model.select_pipes(enable=[name for name in model.pipe_names if name in {*finders, *_heard(model, finders)}])
    return model


def _heard(model: "Language", finders: list[str]) -> set[str]:
    """The components whose vectors these share (`tok2vec` or `transformer` where a model was trained so)."""
    networks = [network for name in finders if (network := getattr(model.get_pipe(name), "model", None)) is not None]
    names = {getattr(node, "upstream_name", None) for network in networks for node in network.walk()}
    return {
        name for name in model.pipe_names if name in names or ("*" in names and name.startswith(("tok2vec", "tran")))
    }
