"""Small spaCy models, made in seconds and saved as real ones are."""

from pathlib import Path

NAMES = {
    "PERSON": ("Marie Curie", "Ada Lovelace", "Alan Turing"),
    "ORG": ("Royal Society", "Bell Labs"),
    "GPE": ("Paris", "London", "Vienna"),
    "EVENT": ("Great Exhibition",),
    "WORK_OF_ART": ("Moby Dick",),
}


def ruler_model(folder: Path) -> Path:
    """Finds exactly NAMES; beside it stands a component that has no say in that."""
    import spacy

    model = spacy.blank("en")
    model.add_pipe("sentencizer")
    patterns = [{"label": label, "pattern": name} for label, names in NAMES.items() for name in names]
    model.add_pipe("entity_ruler").add_patterns(patterns)
    model.meta["name"], model.meta["version"] = "names", "1.0"
    model.to_disk(folder)
    return folder


def learnt_model(folder: Path) -> Path:
    """A network that has learnt the sentences of `sentence`; it listens to a `tok2vec` that it shares with a tagger."""
    import spacy
    from spacy.training import Example

    spacy.util.fix_random_seed(0)
    model = spacy.blank("en")
    tok2vec = {"@architectures": "spacy.HashEmbedCNN.v2", "width": 32, "depth": 2, "embed_size": 500, "window_size": 1}
    tok2vec |= {"maxout_pieces": 2, "subword_features": True, "pretrained_vectors": None}
    model.add_pipe("tok2vec", config={"model": tok2vec})
    listener = {"@architectures": "spacy.Tok2VecListener.v1", "width": 32, "upstream": "*"}
    parser = {"@architectures": "spacy.TransitionBasedParser.v2", "state_type": "ner", "extra_state_tokens": False}
    parser |= {"hidden_width": 32, "maxout_pieces": 2, "use_upper": True, "nO": None, "tok2vec": listener}
    model.add_pipe("ner", config={"model": parser})
    model.add_pipe("sentencizer")
    examples = []
    for person in NAMES["PERSON"]:
        for place in NAMES["GPE"]:
            text = sentence(person, place)
            at = text.index(place)
            marks = {"entities": [(0, len(person), "PERSON"), (at, at + len(place), "GPE")]}
            examples.append(Example.from_dict(model.make_doc(text), marks))
    optimizer = model.initialize(lambda: examples)
    for _ in range(100):
        model.update(examples, sgd=optimizer)
    model.to_disk(folder)
    return folder


def sentence(person: str, place: str) -> str:
    return f"{person} went to {place} in the spring."
