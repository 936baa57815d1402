"""Key sentences: keep a share of some texts, and every number and name in them.

A sentence scores by how frequent its content words are over all the texts (the word probabilities of SumBasic, Nenkova and
Vanderwende 2005), in one pass instead of SumBasic's repeated one: sentences that add no new word are passed over. Those that
bring a number or a name which nothing chosen so far has come first, whatever they score. Pure; any thread may call it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from troupelab.text.words import Sentence, analyse

__all__ = ["key_sentences"]


def key_sentences(texts: Sequence[str], retain_fraction: float, speakers: Sequence[str] = ()) -> list[list[str]]:
    """Choose sentences that together keep about `retain_fraction` of the characters.

    The share is exceeded only where all numbers and names need more. A sentence that somebody says several times is kept once.

    Args:
        texts: what to choose from.
        retain_fraction: the share of the characters to keep, from 0 to 1.
        speakers: who said each text: what somebody said is then not passed over because somebody else has said it.

    Returns:
        For each text, its chosen sentences in their order; texts of which nothing was chosen have an empty list.

    >>> key_sentences(["The lamp costs 79 euros. Well, well.", "The lamp is bright, I like the lamp."], 0.5)
    [['The lamp costs 79 euros.'], []]
    """
    found = [
        (index, place, sentence) for index, text in enumerate(texts) for place, sentence in enumerate(analyse(text))
    ]
    who = list(speakers) if speakers else [""] * len(texts)
    unique: dict[tuple[str, str], tuple[int, int, Sentence]] = {}
    frequency: Counter[str] = Counter()
    for item in found:
        unique.setdefault((who[item[0]], item[2].text), item)
        frequency.update(item[2].words)
    # Sorting is stable: equal scores stay in the order of the texts.
    scored = sorted(unique.values(), key=lambda item: -_score(item[2], frequency))
    budget = retain_fraction * sum(map(len, texts))

    chosen: list[tuple[int, int, Sentence]] = []
    left: list[tuple[int, int, Sentence]] = []
    facts: dict[str, set[str]] = {speaker: set() for speaker in who}
    words: dict[str, set[str]] = {speaker: set() for speaker in who}
    used = 0
    for item in scored:
        speaker = who[item[0]]
        if facts[speaker].issuperset(item[2].facts):
            left.append(item)
            continue
        chosen.append(item)
        facts[speaker].update(item[2].facts)
        words[speaker].update(item[2].words)
        used += len(item[2].text)
    for item in left:
        size, speaker = len(item[2].text), who[item[0]]
        if used + size <= budget and not words[speaker].issuperset(item[2].words):
            chosen.append(item)
            words[speaker].update(item[2].words)
            used += size

    kept: list[list[str]] = [[] for _ in texts]
    for index, _, sentence in sorted(chosen, key=lambda item: item[:2]):
        kept[index].append(sentence.text)
    return kept


def _score(sentence: Sentence, frequency: Counter[str]) -> float:
    if not sentence.words:
        return 0.0
    return round(sum(map(frequency.__getitem__, sentence.words)) / len(sentence.words), 5)
