"""The configuration of skeletons and search trajectories, and the templates that it may hold."""

import re
from typing import Annotated

from msgspec import Meta

from adam.contract.section import Section

LABEL = r"^[A-Z][A-Z_]*$"
MARK = re.compile(r"</?[A-Z][A-Z_]*>")
FIELD = re.compile(r"\{(\w*)\}")
FIELDS = ("entity", "label", "before")

Label = Annotated[str, Meta(pattern=LABEL)]


class Skeletons(Section, frozen=True):
    """Entities of prose become placeholders, or are looked up before they are written. Code is left as it is."""

    enabled: Annotated[bool, Meta(description="mask a share of the prose, as told below")] = False
    model: Annotated[
        str,
        Meta(
            min_length=1,
            description="spaCy model that finds entities: an installed package, or a folder (a relative one is seen from the run directory)",
        ),
    ] = "en_core_web_sm"
    share: Annotated[
        float, Meta(ge=0, le=1, description="share of the prose documents whose entities become placeholders")
    ] = 0.3
    search_share: Annotated[
        float, Meta(ge=0, le=1, description="share of the prose documents with a search trajectory before one entity")
    ] = 0.2
    labels: Annotated[
        tuple[Label, ...], Meta(min_length=1, description="kinds of entities that become placeholders")
    ] = ("PERSON", "ORG", "GPE")
    numbered: Annotated[
        bool,
        Meta(
            description="true: <PERSON_1>, the same for the same name all through a document; false: <PERSON> for everybody"
        ),
    ] = True
    last_names: Annotated[
        bool,
        Meta(
            description="a person's last name alone gets the number of the full name that ends in it, where the document has one such"
        ),
    ] = True
    numbers: Annotated[
        int,
        Meta(
            ge=1, le=1000, description="placeholders with a number for each kind; names beyond get the plain <PERSON>"
        ),
    ] = 32
    search_labels: Annotated[
        tuple[Label, ...], Meta(min_length=1, description="kinds of entities that are searched for")
    ] = ("PERSON", "ORG", "GPE", "EVENT", "WORK_OF_ART")
    templates: Annotated[
        tuple[Annotated[str, Meta(min_length=1)], ...],
        Meta(
            min_length=1,
            description="what is put before an entity, one of them for each document; {entity}: its text, {label}: its kind, {before}: the "
            "words before it; each <MARK> becomes a token of its own",
        ),
    ] = (
        "<THOUGHT>This {label} should be checked.</THOUGHT> <SEARCH>{entity}</SEARCH> <RESULT>{entity}</RESULT> ",
        "<THOUGHT>Which {label} is meant here?</THOUGHT> <SEARCH>{before}</SEARCH> <RESULT>{entity}</RESULT> ",
    )
    processes: Annotated[
        int, Meta(ge=0, description="that find entities side by side; 0: one for each core this process may use")
    ] = 0


def skeleton_contradictions(skeletons: Skeletons) -> list[str]:
    """See `contract.config.contradictions`."""
    found = []
    if skeletons.share + skeletons.search_share > 1:
        found.append(
            f"forge.skeletons.search_share = {skeletons.search_share}: "
            f"must not exceed 1 together with forge.skeletons.share = {skeletons.share}"
        )
    for number, template in enumerate(skeletons.templates):
        unknown = [field for field in FIELD.findall(template) if field not in FIELDS]
        if unknown:
            known = ", ".join(f"{{{field}}}" for field in FIELDS)
            found.append(
                f"forge.skeletons.templates[{number}] has {{{unknown[0]}}}: must be one of {known}; a field is one word"
            )
        elif not MARK.search(template):
            found.append(f"forge.skeletons.templates[{number}] has no mark: must hold one such as <SEARCH>")
    return found
