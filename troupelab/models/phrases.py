"""What the scripted model can say: sentences with gaps for the persona and for what it was told.

The gaps: `who` spoke (`you` where they are spoken to), the `topic` and a `quote` of what was said (`sentence` with its full
stop); the persona's `belief`, `like`,
`dislike`, `interest`, `goal` (as "to …") and `work`. Constants; any thread.
"""

from __future__ import annotations

__all__ = ["EMOTIONS", "NEWS", "OPENERS", "REACH_OUTS", "REMEMBERED", "REPEATS", "TALKS", "THOUGHTS"]

TALKS: dict[str, tuple[str, ...]] = {
    "for": (
        "I am with {who} on {topic}. {belief}",
        "“{quote}” – I could have said that myself. {belief}",
        "Good. {topic_start} is worth the trouble, if you ask me. I like {like}, and this is not so far from it.",
        "You can put me down for {topic}, {you}. As {work} I know when something is meant well.",
        "I came in doubting {topic}, and {who} has nearly turned me. {belief}",
        "On {topic}, {who} is right. It even fits my own plan {goal}.",
        "Let us not talk {topic} to death. I would try it for a week and tell you honestly.",
        "What {who} says about {topic} makes sense to {work}. One thing I would add. {belief}",
        "Fine by me: “{quote}”. I spend my time on {interest}, so I see the point sooner than most.",
    ),
    "unsure": (
        "About {topic} I would want to know more. {belief}",
        "“{quote}” – who worked that out, {you}, and for whom?",
        "I can argue {topic} both ways. On one side, {like}; on the other, {dislike}.",
        "Before I say anything about {topic}: what happens when it goes wrong? {belief}",
        "Say that again about {topic}, {you}, and slowly. I did not hear what it costs.",
        "As {work} I would ask one thing about {topic}: who looks after it in five years?",
        "Maybe. {topic_start} looks different to somebody who wants {goal}.",
        "I hear “{quote}”, and I hear what is left out. {belief}",
        "Half of me says yes to {topic}. The other half cannot stand {dislike}.",
    ),
    "against": (
        "No. {belief} And {topic} does not change that.",
        "I cannot follow {who} there. “{quote}” is easily said by people who have never met {dislike}.",
        "Now it is {topic}. I cannot stand {dislike}, and this is a cousin of it.",
        "With respect, {you}: {topic} solves a problem that I do not have. {belief}",
        "All this time as {work}, and I never once needed {topic}. {belief}",
        "Leave me out of {topic}. I would rather have {like}.",
        "“{quote}”? I will remember that it was {who} who said so when the bill comes.",
        "If {topic} is the answer, {you}, somebody asked the wrong question. {belief}",
        "You will not win me for {topic}. I have a plan of my own, {goal}, and it needs none of this.",
    ),
}
"""What is said aloud, by how the persona stands to the topic."""

NEWS: tuple[str, ...] = (
    "Has everyone heard? {who_start} says: “{sentence}” I want to know what is behind it.",
    "I keep thinking of one thing. “{sentence}” {belief}",
    "If this is true – “{quote}” – then I will have to change my own plan {goal}.",
    "“{sentence}” Those are the words of {who}, not mine. As {work} I would like to see it in writing.",
)
"""What passes on something with a number in it."""

REMEMBERED: tuple[str, ...] = (
    "I have not forgotten what {who} said: “{sentence}” Nobody has answered that yet.",
    "Before we go on, back to {who}: “{sentence}” Does that still hold?",
    "Was it not {who} who told us “{quote}”? I would like to hear how that fits together with the rest.",
)
"""What comes back to something that was said earlier and is still remembered."""

THOUGHTS: dict[str, tuple[str, ...]] = {
    "for": (
        "On {topic} {who} may be on to something. I should say so before somebody louder does.",
        "If {topic} works out, it could even help me {goal}.",
        "There is something of {like} in {topic}. I did not expect that.",
    ),
    "unsure": (
        "I do not know yet what I make of {topic}. {belief} That much I do know.",
        "The talk is of {topic}, and my mind is on {interest}.",
        "Careful. Last time I nodded at something like “{quote}”, I regretted it.",
    ),
    "against": (
        "Everyone nods at {topic}. To me it smells of {dislike}.",
        "I am sure {who} means well, but {topic} is in the way of what I want: {goal}.",
        "I will not argue over {topic} for long. I would sooner be at {interest}.",
    ),
}
"""What is only thought."""

REPEATS: tuple[str, ...] = (
    "I have said it before and I say it again. {belief}",
    "I always come back to this. {belief}",
    "You know me. {belief}",
)
"""What is said without regard to anything heard, so that a memory meets the same sentence again."""

OPENERS: tuple[str, ...] = (
    "Since nobody begins: I am {first}, {work}, and I spend my time on {interest}. {belief}",
    "Let me start with myself, then. I like {like}, and I cannot stand {dislike}. {belief}",
)
"""What is said when nothing was heard."""

REACH_OUTS: tuple[str, ...] = (
    "Do you have a moment? Here they say: “{sentence}” What do you know about it?",
    "I have to tell somebody. This is what {who} told us: “{sentence}” Is it the same on your side?",
)
"""What is said to somebody outside one's own circle."""

EMOTIONS: dict[str, tuple[str, ...]] = {
    "for": ("Pleased, and ready to help.", "Hopeful, a little surprised at it.", "At ease with where this goes."),
    "unsure": ("Curious, with one hand on the brake.", "Undecided and aware of it.", "Listening hard."),
    "against": (
        "Irritated, and trying to be fair.",
        "Tired of this subject.",
        "Stubborn, and fairly sure to be right.",
    ),
}
"""How the persona feels about it."""
