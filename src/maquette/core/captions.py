"""Words that tie captions to what is learned: the trigger word, and the noun of its class."""

import re

_LEADS = re.compile(r"^(?:an? )?(?:photo|picture|image|portrait) of (?:an? |the )?|^(?:an? |the )", re.IGNORECASE)


def class_noun(class_prompt: str) -> str:
    """What a class prompt names: `dog` of `a photo of a dog`; a bare noun stays as it is."""
    return _LEADS.sub("", class_prompt.strip(), count=1)


def with_phrase(caption: str, trigger: str, phrase: str) -> str:
    """A caption that says the trigger word: as it is where it does already, else behind the phrase, as tags are."""
    said = re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", caption, re.IGNORECASE)
    return caption if said else f"{phrase}, {caption}"
