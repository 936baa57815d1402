"""Sameness: do two texts say the same?

`fingerprint` tells equal texts, cosines (see `troupelab.text.ring`) those that sound alike, and `may_merge` refuses those that
sound alike and say something else. It is needed because no cosine can tell: texts with one number, name or negation changed
score 0.83 to 0.9997 over nine encoders (github.com/zilliztech/GPTCache, issue 694).

Pure functions; any thread may call them.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache

import msgspec
import xxhash

from troupelab.text.words import STOP

__all__ = ["fingerprint", "may_merge"]

_SPACES = bytes.maketrans(b"\t\n\v\f\r", b"     ")


def fingerprint(text: str) -> int:
    r"""64 bits (xxh3) that are equal for texts which differ in case and (ASCII) white space at most.

    >>> fingerprint("It  costs 79 euros") == fingerprint("it costs 79 Euros\n") != fingerprint("it costs 97 euros")
    True
    """
    # Bytes, since splitting and joining a str takes three times as long as all of this.
    folded = text.casefold().encode("utf-8", "surrogatepass").translate(_SPACES).strip()
    return xxhash.xxh3_64_intdigest(b" ".join(folded.split()) if b"  " in folded else folded)


_MOST_CHARS = 20_000
_STEM_LETTERS = 5
_FEW_STEMS = 8

# A number with its sign, its currency and what is attached to it; a word; or the end of a question.
_TOKEN = re.compile(
    r"(?:(?<!\w)[-+])?(?:[$€£¥₹]\s?)?\d+(?:[.,:/–-]\d+)*(?:\s?[%‰€£¥₹$°])?[^\W\d_]*|[^\W\d_]+(?:['.][^\W\d_]+)*|[?؟]+"
)
_NUMBER = re.compile(r"([-+]?)([$€£¥₹]?)([\d.,:/–-]*\d)(.*)")
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(?![\d,])")
_BEGINS = frozenset('.!?…。:;\n\r"“”„«»(*•–—-[|#>')  # between two words: a capital that follows may mean nothing
_PREFIX = re.compile(r"(?:un|dis|in|im|ir|il|non|mis|anti)(?=\w{3})")

_COMMON = STOP | frozenset(
    "yes no okay ok well sure thanks thank hello hi hey dear sorry please oh ah honestly overall however although though "
    "actually still maybe perhaps finally next today tomorrow yesterday sometimes usually often generally personally "
    "additionally moreover furthermore meanwhile instead given considering since despite during while whereas regarding "
    "therefore thus hence besides otherwise either neither another everyone everybody everything someone nobody nothing "
    "never always good great nice lastly secondly firstly currently recently especially probably definitely absolutely "
    "certainly obviously frankly basically".split()
)
# "one" mostly counts nothing: "no one", "this one", "one of them".
_DIGITS = "zero _ two three four five six seven eight nine ten eleven twelve"
_TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety"
_COUNTS = (
    "thirteen fourteen fifteen sixteen seventeen eighteen nineteen hundred thousand million billion trillion hundreds "
    "thousands millions billions dozen dozens half halves quarter quarters once twice thrice double triple single "
    "both pair couple first second third fourth fifth sixth seventh eighth ninth tenth last"
)
_NUMBER_WORDS = {word: str(value) for value, word in enumerate(_DIGITS.split())}
_NUMBER_WORDS |= {word: str(10 * value) for value, word in enumerate(_TENS.split())}
_NUMBER_WORDS |= {word: word for word in _COUNTS.split()}
_UNITS = {
    word: words.split()[0]
    for words in (
        "% percent pct|$ dollar dollars usd bucks|€ euro euros eur|£ pound pounds gbp quid|cent cents|h hr hrs hour hours|"
        "min mins minute minutes|s sec secs second seconds|ms millisecond milliseconds|day days|week weeks|month months|"
        "year years yr yrs|km kilometer kilometers kilometre kilometres|m meter meters metre metres|cm centimeters centimetres|"
        "mm millimeters millimetres|mi mile miles|ft foot feet|kg kilo kilos kilograms|g gram grams|mg milligrams|lb lbs|"
        "l liter liters litre litres|ml milliliters millilitres|celsius|fahrenheit|am a.m|pm p.m"
    ).split("|")
    for word in words.split()
}

# English, and the commonest of some neighbours; what clashes ("sin") only means that fewer texts merge.
_NEGATIONS = frozenset(
    "no not never none nobody nothing nowhere without neither nor hardly scarcely barely cannot cant dont doesnt didnt wont "
    "wouldnt couldnt shouldnt isnt arent wasnt werent hasnt havent hadnt aint lack lacks lacking fail fails failed refuse "
    "refuses refused avoid avoids avoided nah nope nunca jamás nada ni sin tampoco nicht kein keine keinen nie niemals ohne "
    "pas jamais rien aucun sans não nunca nem sem non mai niente senza niet geen nooit değil yok".split()
)
# Each of these turns a sentence round or bounds it; a text that has one more or one less says something else.
_STRICT = frozenset("only unless until except if almost nearly all every everyone everybody everything".split())

# Families (";") of words of which one excludes the others ("|").
_FAMILIES = """
increase increases increased increasing rise rises rose rising grow grows grew raise raises raised up higher | decrease
decreases decreased decreasing fall falls fell falling drop drops dropped shrink lower lowers lowered reduce reduces
reduced down; more | less fewer; most | least; many much | few little; all every everyone everybody everything | some
someone somebody something | none; always | usually often | sometimes occasionally | rarely seldom | never; agree
agrees agreed | disagree disagrees disagreed; like likes liked | dislike dislikes disliked; love loves loved enjoy
enjoys enjoyed | hate hates hated; before earlier | after later; buy buys bought buying purchase | sell sells sold
selling; yes yeah yep | no nope nah | maybe perhaps; accept accepts accepted | reject rejects rejected decline declines
declined; open opens opened opening | close closes closed closing shut; start starts started begin begins began | stop
stops stopped end ends ended finish finished; win wins won | lose loses lost; true right correct | false wrong
incorrect; good great | bad poor terrible; better | worse; best | worst; hot | cold; warm | cool; big large bigger
larger | small smaller; high | low; long longer | short shorter; old older | young younger new newer; fast faster quick
| slow slower; early | late; easy easier | hard harder difficult; cheap cheaper affordable | expensive pricey; rich |
poor; safe | dangerous risky; strong stronger | weak weaker; happy | sad; public | private; inside indoors | outside
outdoors; with | without; for | against; in | out; on | off; above over | below under beneath; left | right; north
northern | south southern | east eastern | west western; come comes came arrive arrives arrived | go goes went leave
leaves left; give gives gave send sends sent | take takes took receive receives received; push | pull; remember
remembers | forget forgets; alive | dead; allow allows allowed | forbid forbids forbade ban bans banned; include
includes included including | exclude excludes excluded excluding; support supports supported | oppose opposes opposed;
success succeed succeeded | failure fail failed; trust trusts | distrust doubt doubts; probably likely | unlikely;
definitely certainly surely will must | might may perhaps maybe possibly could; would | will; am is are | was were;
today | yesterday | tomorrow; morning | noon | afternoon | evening | night; spring | summer | autumn fall | winter; man
men boy male | woman women girl female; mother mom | father dad; son | daughter; sister | brother; wife | husband; aunt
| uncle; he him his himself | she her hers herself; i me my mine myself i'm i'd i'll i've | you your yours yourself
you're | we us our ours ourselves we're we'd we'll we've | they them their theirs they're; this these | that those; who
| what which | when | where | why | how; white | black | red | green | blue | yellow | brown | pink | purple | orange |
grey gray
""".split(";")
_SIDES: dict[str, tuple[tuple[int, int], ...]] = {}
for _family, _sides in enumerate(_FAMILIES):
    for _side, _words in enumerate(_sides.split("|")):
        for _word in _words.split():
            _SIDES[_word] = (*_SIDES.get(_word, ()), (_family, _side))


class _Claims(msgspec.Struct, frozen=True, gc=False):
    """What must not differ between two texts that are one; the booleans tell a capital that may only begin a sentence."""

    facts: tuple[tuple[str, bool], ...]
    counts: tuple[int, int, tuple[str, ...]]
    sides: tuple[tuple[int, int], ...]
    words: frozenset[str]
    small: frozenset[str]
    stems: tuple[str, ...]
    has_capitals: bool


def _claims(text: str) -> _Claims:
    text = unicodedata.normalize("NFKC", text).replace("’", "'").replace("−", "-")
    facts: list[tuple[str, bool]] = []
    words: list[str] = []
    small: list[str] = []
    questions = 0
    end = 0
    begins = True
    counted = False
    for match in _TOKEN.finditer(text):
        piece = match.group()
        lower = piece.lower()
        begins = begins or not _BEGINS.isdisjoint(text[end : match.start()])
        end = match.end()
        if piece[0] in "?؟":
            questions += 1
            begins = True
            continue
        if counted and lower in _UNITS:
            facts.append((_UNITS[lower], False))
            counted = False
        elif counted := lower in _NUMBER_WORDS:
            facts.append((_NUMBER_WORDS[lower], False))
        elif counted := any(map(str.isdecimal, piece)):
            facts += [(part, False) for part in _number(lower)]
        else:
            words.append(lower)
            if piece == lower:
                small.append(lower)
            elif piece != "I" and not piece.startswith("I'") and not (begins and lower in _COMMON):
                facts.append((piece.removesuffix("'s"), begins))
        begins = False
    negations = sum(word in _NEGATIONS or word.endswith("n't") for word in words)
    return _Claims(
        tuple(facts),
        (negations, questions, tuple(sorted(word for word in words if word in _STRICT))),
        tuple(side for word in words for side in _SIDES.get(word, ())),
        frozenset(words),
        frozenset(small),
        tuple([word[:_STEM_LETTERS] for word in words if word not in STOP and len(word) > 2]),
        text.isascii() or not any(unicodedata.category(char) == "Lo" for char in text),
    )


_claims_cached = lru_cache(maxsize=512)(_claims)  # a few kB each; a candidate is often compared again


def _number(token: str) -> list[str]:
    """A number without its thousands' commas, and its unit in one spelling where it has one."""
    sign, currency, digits, attached = _NUMBER.findall("".join(token.split()))[0]
    digits = _GROUPED.sub(lambda match: match.group().replace(",", ""), digits)
    unit = currency or attached
    return [sign.replace("+", "") + digits, *([_UNITS.get(unit, unit)] if unit else [])]


def may_merge(one: str, other: str) -> bool:
    """Whether two texts that sound alike may be taken for one, as far as words tell.

    False where they differ in a number (with its unit) or a name, in the order of these, in how often they negate or ask, in a
    word that bounds ("only", "unless", "all"), where one has a word and the other its opposite, where the words that they
    share stand in another order, and where content words differ: one each in a text of up to eight, which a vector still
    hears, one in all in longer ones. A wrong refusal costs a record, a wrong merge a fact: in doubt it is False.

    Opposites and number words are English, negations those of some neighbours too. A script without capitals hides its names: texts in
    one, and texts beyond 20,000 characters, merge only when they are equal up to white space.

    >>> may_merge("Finished; waiting for your next question.", "Finished, waiting for the next question.")
    True
    >>> may_merge("The lamp costs 79 euros.", "The lamp costs 97 euros.")
    False
    """
    if one.split() == other.split():
        return True
    if max(len(one), len(other)) > _MOST_CHARS:
        return False
    first, second = _claims_cached(one), _claims_cached(other)
    return (
        first.has_capitals
        and second.has_capitals
        and first.counts == second.counts
        and _facts(first, second) == _facts(second, first)
        and not _opposed(first, second)
        and _alike(first.stems, second.stems)
    )


def _facts(claims: _Claims, other: _Claims) -> list[str]:
    """Numbers and names, without the words that begin a sentence here and stand uncapitalised elsewhere."""
    return [
        fact
        for fact, begins in claims.facts
        if not (begins and (fact.lower() in claims.small or fact.lower() in other.small))
    ]


def _opposed(first: _Claims, second: _Claims) -> bool:
    here, there = Counter(first.sides), Counter(second.sides)
    if {family for family, _ in here - there} & {family for family, _ in there - here}:
        return True
    mine, theirs = first.words - second.words, second.words - first.words
    return _turned(mine, theirs) or _turned(theirs, mine)


def _turned(words: frozenset[str], others: frozenset[str]) -> bool:
    """Whether one of the words is one of the others with a prefix or an ending that negates it."""
    return any(
        _PREFIX.sub("", word, count=1) in others
        or (word.endswith("less") and (word[:-4] in others or word[:-4] + "ful" in others))
        for word in words
    )


def _alike(mine: tuple[str, ...], theirs: tuple[str, ...]) -> bool:
    """Whether nearly the same content words stand in the same order; a repeated word counts each time."""
    here, there = Counter(mine), Counter(theirs)
    if [stem for stem in here if stem in there] != [stem for stem in there if stem in here]:
        return False
    more, fewer = (here - there).total(), (there - here).total()
    return max(more, fewer) <= 1 if max(len(here), len(there)) <= _FEW_STEMS else more + fewer <= 1
