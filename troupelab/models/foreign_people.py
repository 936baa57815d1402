"""Invents people for the scripted model: what TinyTroupe's factory of persons asks for, from names to whole personas.

Names are put together from common first names and surnames of places that do not exist. Which function is asked for is told by the
names of its parameters. Everything depends on the parameters and the caller's draw alone. Pure; any thread may call it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any

from troupelab.models.foreign_persona import first_object, texts

__all__ = ["computed", "name_for", "person"]

Draw = Callable[[str], int]

_WOMEN = (
    "Adela Beatriz Celine Dorota Elin Farida Greta Hana Ines Jolanta Karima Leonie Mirela Nadine Odette Petra Rosalind Samira "
    "Tove Ursula Verena Wanda Yasmin Zora"
).split()
_MEN = (
    "Anselm Bastian Cedric Dimitar Emil Farid Gideon Henrik Ivo Jonas Kwame Lorenz Mateus Niklas Otis Piotr Rafael Samir Tobias "
    "Ulf Viktor Wendell Yusuf Zoltan"
).split()
_SURNAMES = (
    "Ashgrove Barrowby Calderstone Dunmere Elmsworth Fennimoor Garroway Hollinbrook Ivermoor Jesterby Kettlebeck Larkwater "
    "Mossbridge Nethercote Oakhurstle Pennymoor Quillbrook Rushworthen Saltermere Thistlewick Umberfield Vennaby Withermoor Yarrowdale"
).split()
_WORK = (
    "Baker|Bus driver|Primary school teacher|Electrician|Nurse|Bookkeeper|Carpenter|Shop assistant|Gardener|Postal worker|"
    "Cook|Librarian|Warehouse worker|Plumber|Dental assistant|Tax clerk"
).split("|")
_PEOPLES = {
    "Norway": "Norwegian", "Portugal": "Portuguese", "Canada": "Canadian", "Ghana": "Ghanaian", "Poland": "Polish",
    "Brazil": "Brazilian", "Japan": "Japanese", "Ireland": "Irish", "Morocco": "Moroccan", "Germany": "German",
    "Chile": "Chilean", "Vietnam": "Vietnamese",
}  # fmt: skip
_HOMES = tuple(_PEOPLES)
_SCHOOLING = (
    "Left school at sixteen and learnt the rest at work.|A vocational school and three years of apprenticeship.|"
    "A degree from a small university, finished late and with pride.|Evening classes over many years."
).split("|")
_TRAITS = (
    "You weigh every expense twice.|You laugh easily and forgive slowly.|You expect the worst and prepare for it.|"
    "You trust people until they give you a reason not to.|You speak before you have thought it through.|"
    "You keep your worries to yourself.|You finish what you begin.|You need an hour alone each day.|You argue for the sake of it.|"
    "You notice what others leave unsaid.|You are seldom in a hurry.|You hate to owe anybody anything."
).split("|")
_LIKES = (
    "Fresh bread|Long walks after rain|Old radio plays|Strong tea|Card games with friends|Markets early in the morning|"
    "Repairing things|Choir music|A tidy workshop|Spicy soup"
).split("|")
_DISLIKES = (
    "Loud offices|Broken promises|Waiting on the telephone|Small print|Being hurried|Waste of any kind|Empty talk|Sweet drinks|"
    "Sudden changes of plan|Crowded trains"
).split("|")
_INTERESTS = (
    "Local history|Bicycle repair|Growing vegetables|Chess problems|Birds|Family recipes|Football on Sundays|Crime novels|"
    "Home electrics|Amateur theatre"
).split("|")
_BELIEFS = (
    "A price should be the same for everybody.|Who does the work should have a say in it.|Taxes are too high for what one gets.|"
    "A town without a library is only a place to sleep.|New things should prove themselves before old ones go.|"
    "Most problems come from people not listening.|The state should help those who cannot help themselves.|"
    "One should never borrow for a pleasure.|Children need more freedom than they are given.|Good work speaks for itself.|"
    "Machines should serve people and not the other way round.|Luck has more to do with it than the lucky admit."
).split("|")
_GOALS = (
    "To own a house with a garden|To learn a second trade|To see the children settled|To retire without debts|"
    "To open a small business|To travel by train across a continent"
).split("|")
_STYLES = (
    "Short sentences, dry humour, seldom a compliment.|Warm and talkative, with many stories from work.|"
    "Polite and careful, and formal with strangers.|Blunt, quick, and a little too loud."
).split("|")
_LEVELS = ("Low", "Medium", "High")
_FIVE = ("openness", "conscientiousness", "extraversion", "agreeableness", "neuroticism")
_DIMENSIONS = {
    "personality_traits": _TRAITS,
    "political_beliefs": _BELIEFS[:4],
    "economic_beliefs": _BELIEFS[4:8],
    "financial_situation": (
        "Lives from one pay to the next.",
        "Has some savings.",
        "Is in debt.",
        "Need not think about money.",
    ),
    "preferences_and_tastes": _LIKES,
    "cultural_background": _HOMES,
    "profession": _WORK,
    "gender": ("female", "male"),
}
_SPAN = re.compile(r"\b(\d{1,2})\s{0,3}(?:-|–|to|and)\s{0,3}(\d{1,2})\b")
_YEARS = re.compile(r"\b(\d{1,3})[ -]years?\b|\baged? (?:of )?(\d{1,3})\b", re.IGNORECASE)
_FULL_NAME = re.compile(r"Full name: ([^\n]{1,100})")
_PRIMARY = re.compile(r"Primary characteristics: ([^\n]{1,500})")
_MOST_PEOPLE = 2_000
_MOST_NAMES = 200
_MOST_DIRECTIVES = 50
_MOST_DIMENSIONS = 24
_MOST_VALUES = 20
_AT_ONCE = 5
_PUPILS = 16


def computed(named: dict[str, Any], draw: Draw) -> Any:
    """What a function of the factory returns for these parameters; None where it is another function.

    Args:
        named: its named parameters.
        draw: a whole number for a purpose.

    >>> computed({"n": 2, "already_generated_names": []}, lambda purpose: 0)
    ['Adela Ashgrove', 'Adela Barrowby']
    """
    if "sampling_dimensions" in named:
        return _plan(named, draw)
    if "sampling_space_description" in named:
        space = named["sampling_space_description"]
        return _dimensions(space if isinstance(space, str) else "")
    taken = named.get("already_generated_names")
    if not isinstance(taken, list):
        return None
    used = {each for each in taken if isinstance(each, str)}
    sample = named.get("sample_characteristics")
    if (count := named.get("n")) is None:
        return name_for(sample if isinstance(sample, dict) else {}, used, draw)
    names: list[str] = []
    for _ in range(min(count, _MOST_NAMES) if isinstance(count, int) else 1):
        names.append(name_for({}, used, draw))
        used.add(names[-1])
    return names


def name_for(sample: dict[str, Any], taken: Collection[str], draw: Draw) -> str:
    """A full name that nobody has.

    Args:
        sample: what is known of the person; its gender decides on the first name.
        taken: the names that there are.
        draw: a whole number for a purpose.
    """
    gender = str(
        _one(next((value for key, value in sample.items() if "gender" in key.lower()), ""), draw, "gender")
    ).lower()
    firsts = _WOMEN if gender.startswith(("f", "w")) else _MEN if gender.startswith("m") else _WOMEN + _MEN
    start, pairs = draw("name"), len(firsts) * len(_SURNAMES)
    for number in range(pairs * (len(_SURNAMES) + 1)):
        place, second = (start + number) % pairs, number // pairs
        name = f"{firsts[place // len(_SURNAMES)]} {_SURNAMES[place % len(_SURNAMES)]}"
        name += f"-{_SURNAMES[second - 1]}" if second else ""
        if name not in taken:
            return name
    return f"{firsts[start % len(firsts)]} {_SURNAMES[0]} {len(taken)}"


def _dimensions(space: str) -> dict[str, Any]:
    """The dimensions of a population: an age range, what a table in the description lists, and a few that people always have."""
    text = space[-20_000:]
    found = _SPAN.search(text)
    ages = sorted(map(int, found.groups())) if found else [18, 80]
    lower = text.lower()
    if not found and "young" in lower:
        ages = [18, 30]
    elif not found and any(word in lower for word in ("elderly", "retired", "pensioner")):
        ages = [62, 90]
    dimensions = _listed(first_object(text))
    if not any("age" in each["name"].lower().split("_") for each in dimensions):
        dimensions.insert(0, {"name": "age", "range": ages})
    known = {each["name"] for each in dimensions}
    dimensions += [{"name": name, "values": [*values]} for name, values in _DIMENSIONS.items() if name not in known]
    return {"sampling_space_description": space[:500].strip(), "dimensions": dimensions}


def _listed(table: dict[str, Any]) -> list[dict[str, Any]]:
    """The dimensions that a table lists, however deep: shares by value, or values."""
    dimensions: list[dict[str, Any]] = []
    waiting: list[tuple[str, Any]] = [*table.items()][::-1]
    looked_at = 0
    while waiting and len(dimensions) < _MOST_DIMENSIONS and looked_at < 1_000:
        looked_at += 1
        key, value = waiting.pop()
        if isinstance(value, dict) and value and all(isinstance(share, int | float) for share in value.values()):
            dimensions.append({"name": key[:60], "values": dict([*value.items()][:_MOST_VALUES])})
        elif isinstance(value, dict):
            waiting += [*value.items()][::-1]
        elif isinstance(value, str | list) and (values := texts(value, _MOST_VALUES)):
            dimensions.append({"name": key[:60], "values": values})
    return dimensions


def _plan(named: dict[str, Any], draw: Draw) -> dict[str, Any]:
    """So many directives that their quantities add up to the number that is asked for."""
    count = named.get("N", named.get("n"))
    total = max(1, min(count, _MOST_PEOPLE)) if isinstance(count, int) else 1
    at_once = named.get("max_quantity_per_sample_directive", _AT_ONCE)
    at_once = at_once if isinstance(at_once, int) and at_once > 0 else _AT_ONCE
    directives = max(min(total, _MOST_DIRECTIVES), -(-total // at_once))
    space = named["sampling_dimensions"]
    listed = space.get("dimensions") if isinstance(space, dict) else space
    dimensions = [
        each for each in (listed if isinstance(listed, list) else []) if isinstance(each, dict) and each.get("name")
    ]
    plan = []
    for number in range(directives):
        sampled = {
            str(each["name"])[:60]: _share_of(each, draw, f"plan {number} {each['name']}")
            for each in dimensions[:_MOST_DIMENSIONS]
        }
        told = [each for value in sampled.values() for each in (value if isinstance(value, list) else [value])]
        said = [each for each in told if isinstance(each, str)][:2] or ["people of all kinds"]
        plan.append(
            {
                "id": number + 1,
                "subpopulation_description": f"People such as these: {'; '.join(each[:80].rstrip('.') for each in said)}.",
                "sampled_values": sampled,
                "quantity": total // directives + (number < total % directives),
            }
        )
    return {"sample_plan": plan}


def _share_of(dimension: dict[str, Any], draw: Draw, purpose: str) -> Any:
    """A part of one dimension: a shorter range, or two of its values; they are drawn by their proportions where these are given."""
    span, values = dimension.get("range"), dimension.get("values")
    if isinstance(span, list) and len(span) == 2 and all(isinstance(each, int) for each in span):
        low, high = sorted(span)
        width = max(1, (high - low) // 4)
        start = low + draw(purpose) % max(1, high - low - width + 1)
        return [start, min(high, start + width)]
    if isinstance(values, dict) and values:
        weights = [share if isinstance(share, int | float) and 0 < share < 1e9 else 1e-9 for share in values.values()]
        at = draw(purpose) % 10_000 / 10_000 * sum(weights)
        for name, weight in zip(values, weights, strict=True):
            at -= weight
            if at < 0:
                return name
        return next(iter(values))
    if isinstance(values, list) and values:
        first = draw(purpose) % len(values)
        return [values[first], values[(first + 1) % len(values)]] if len(values) > 2 else values[first]
    return "as everybody"


def person(particularities: str, draw: Draw) -> dict[str, Any]:
    """A whole persona, as TinyTroupe's persona files have it.

    Args:
        particularities: what is asked of this person: an object of characteristics, a full name, or plain words.
        draw: a whole number for a purpose.
    """
    text = particularities[:50_000]
    sample = first_object(text)
    known = {str(key).lower(): _one(value, draw, str(key)) for key, value in [*sample.items()][:100]}
    given = _FULL_NAME.search(text)
    name = str(known.get("name") or (given[1].strip(" .") if given else "")) or name_for(sample, (), draw)
    primary = _PRIMARY.search(text)
    told = primary[1].strip() if primary else "" if sample or given else " ".join(text.split())[:300]

    def some(purpose: str, among: Collection[str], count: int) -> list[str]:
        listed = [*among]
        first = draw(f"{name} {purpose}") % len(listed)
        return [listed[(first + number) % len(listed)] for number in range(count)]

    def held(*words: str) -> list[str]:
        return [str(value) for key, value in known.items() if value and any(word in key for word in words)]

    age = _age(known, told, draw)
    work = (held("profession", "occupation", "job") or some("work", _WORK, 1))[0] if age > _PUPILS else "School pupil"
    home = (held("country", "residence", "nationality", "location") or some("home", _HOMES, 1))[0]
    article = "an" if work[:1].lower() in "aeiou" else "a"
    job = f"{article} {work[:1].lower()}{work[1:]}"
    others = [f"{key.replace('_', ' ').capitalize()}: {value}" for key, value in known.items() if key != "name"]
    return {
        "name": name,
        "age": age,
        "gender": (held("gender") or ["Female" if name.split(" ")[0] in _WOMEN else "Male"])[0].capitalize(),
        "nationality": (held("nationality") or [_PEOPLES.get(home, home)])[0],
        "residence": home,
        "education": (held("education") or some("schooling", _SCHOOLING, 1))[0],
        "long_term_goals": some("goals", _GOALS, 2),
        "occupation": {
            "title": work,
            "organization": "a small business in town" if age > _PUPILS else "the school round the corner",
            "description": f"Is {job}, and has been for some years now.",
        },
        "style": some("style", _STYLES, 1)[0],
        "personality": {
            "traits": [*([told] if told else []), *held("personality", "trait"), *some("traits", _TRAITS, 5)],
            "big_five": {each: f"{some(each, _LEVELS, 1)[0]}." for each in _FIVE},
        },
        "preferences": {
            "interests": some("interests", _INTERESTS, 3),
            "likes": [*held("preference", "taste"), *some("likes", _LIKES, 3)],
            "dislikes": some("dislikes", _DISLIKES, 3),
        },
        "skills": [f"Knows inside out what {job} has to know."],
        "beliefs": [*held("belief", "attitude"), *some("beliefs", _BELIEFS, 4)],
        "behaviors": {
            "general": some("habits", _TRAITS, 2),
            "routines": {"morning": "Up early, and never without breakfast."},
        },
        "health": "In fair health, with a back that complains in winter.",
        "relationships": [{"name": name_for({}, (name,), draw), "description": "A friend since school."}],
        "other_facts": [*others, *([told] if told else []), "Has lived in the same street for ten years."],
    }


def _one(value: object, draw: Draw, key: str) -> Any:
    """One concrete value: of a range a number in it, of several one of them."""
    if isinstance(value, dict):
        value = [*value]
    if isinstance(value, list) and len(value) == 2 and all(isinstance(each, int) for each in value):
        low, high = sorted(value)
        return low + draw(f"one {key}") % (high - low + 1)
    if isinstance(value, list):
        listed = texts(value, _MOST_VALUES)
        return listed[draw(f"one {key}") % len(listed)] if listed else ""
    return value if isinstance(value, str | int | float) else ""


def _age(known: dict[str, Any], told: str, draw: Draw) -> int:
    """The age that is asked for, or one that a grown-up may have."""
    for key, value in known.items():
        if "age" in key.split("_") or key.startswith("age"):
            numbers = re.findall(r"\d{1,3}", str(value)[:100])
            if numbers:
                low, high = int(numbers[0]), int(numbers[min(1, len(numbers) - 1)])
                return low + draw("age") % (abs(high - low) + 1)
    if found := _YEARS.search(told):
        return int(found[1] or found[2])
    return 18 + draw("age") % 60
