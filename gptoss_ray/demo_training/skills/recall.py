"""Names told earlier in a chat. Held out: the names."""

# ruff: noqa: E501  (a wording stands on one line)

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from gptoss_ray.demo_training.turn import Reasoning, Turn, copied
from gptoss_ray.demo_training.wording import Wordings, restyle
from gptoss_ray.demo_training.words import name as draw_name

TELL = Wordings(
    "tell name",
    (
        "(My name is|my name's|I am|I'm|Call me|Please call me|You can call me|They call me|People call me|I am called|Hello, I am|Hi, I'm|Hi, my name is|Hello, my name is|This is|My first name is) {n}(.|!|)",
        "(Hello|Hi|Hey), {n} here(.|!|)",
        "(Remember my name:|Remember that my name is|Please remember: my name is|Note that my name is|Just so you know, my name is) {n}(.|)",
        "(I would like to introduce myself|Let me introduce myself|Nice to meet you|Good morning)(.|:|!) (I am|My name is|I'm) {n}(.|)",
    ),
)
ASK = Wordings(
    "ask name",
    (
        "(What is|What's|What was|Tell me|Say|Do you remember|Do you know|Do you still know|Can you tell me|Can you remember|Please tell me|Repeat|And what is|Now what is|So what is|Give me|Could you say) my name(?|)",
        "(Who am I|What am I called|How am I called|What did I say my name is|What is my name again|What do they call me|What was my name again|How do you call me|Which name did I give you|What name did I tell you)(?|)",
        "(Do you remember|Do you know|Can you say|Tell me) (who I am|what my name is|what I am called|how I am called)(?|.)",
    ),
)
_OTHERS = (
    "dog", "cat", "sister", "brother", "friend", "boss", "teacher", "horse", "daughter", "son", "wife", "husband",
    "mother", "father", "neighbor", "bird",
)  # fmt: skip
TELL_OTHER = Wordings(
    "tell other name",
    (
        "(My|Remember that my|By the way, my|Note: my) {o}('s name is| is called| is named) {n}(.|)",
        "(I have a|There is my) {o} (called|named) {n}(.|)",
        "(The name of my|The name of my own) {o} is {n}(.|)",
    ),
)
ASK_OTHER = Wordings(
    "ask other name",
    (
        "(What is|What's|Tell me|Do you remember|Do you know|What was|Say|Can you tell me) (my {o}'s name|the name of my {o})(?|)",
        "(How|What) is my {o} called(?|)",
        "(What did I say|Do you know|Do you remember|Tell me) (what|how) my {o} is called(?|.)",
    ),
)
ASK_UNTOLD = "You have not told me your name yet."


@dataclass(frozen=True)
class NameTurns:
    """The turn that tells a name and the turn that asks for it."""

    tell: Turn
    ask: Turn


def draw(rng: Random, *, held_out: bool) -> NameTurns:
    """Draw a name of the wanted side of the split, of the user or of somebody else."""
    name = draw_name(rng, held_out=held_out)
    return _own_name(rng, name) if rng.random() < 0.65 else _other_name(rng, name)


def _own_name(rng: Random, name: str) -> NameTurns:
    told = restyle(rng, TELL.any(rng))
    said = name.lower() if told.islower() and rng.random() < 0.6 else name
    mark = copied(said)
    tell = Turn(
        "recall",
        told.format(n=said),
        Reasoning(
            low=f"Name: {mark}.",
            medium=f"The user is called {mark}. I greet {mark}.",
            high=f"The user tells me a name. The user is called {mark}. I remember the name {mark} and greet {mark}.",
        ),
        f"Nice to meet you, {mark}!",
        said,
    )
    ask = Turn(
        "recall",
        restyle(rng, ASK.any(rng)),
        Reasoning(
            low=f"Name: {mark}.",
            medium=f"The user asks for the own name. The user is called {mark}.",
            high=f"The user asks for the own name. It was told earlier in this chat. The user is called {mark}. "
            f"I answer with {mark}.",
        ),
        f"Your name is {mark}.",
        said,
    )
    return NameTurns(tell, ask)


def _other_name(rng: Random, name: str) -> NameTurns:
    other = rng.choice(_OTHERS)
    told = restyle(rng, TELL_OTHER.any(rng))
    said = name.lower() if told.islower() and rng.random() < 0.6 else name
    mark = copied(said)
    tell = Turn(
        "recall",
        told.format(n=said, o=other),
        Reasoning(
            low=f"The {other}: {mark}.",
            medium=f"The {other} of the user is called {mark}. I remember that.",
            high=f"The user tells me a name. The {other} of the user is called {mark}. I remember the {other} {mark}.",
        ),
        f"I will remember that your {other} is called {mark}.",
        said,
    )
    ask = Turn(
        "recall",
        restyle(rng, ASK_OTHER.any(rng)).format(o=other),
        Reasoning(
            low=f"The {other}: {mark}.",
            medium=f"The user asks for the name of the {other}. The {other} of the user is called {mark}.",
            high=f"The user asks for the name of the {other}. It was told earlier in this chat. "
            f"The {other} of the user is called {mark}. I answer with {mark}.",
        ),
        f"Your {other} is called {mark}.",
        said,
    )
    return NameTurns(tell, ask)


def draw_untold(rng: Random) -> Turn:
    """Ask for a name that was never told."""
    return Turn(
        "recall",
        restyle(rng, ASK.any(rng)),
        Reasoning(
            low="Name: not told.",
            medium="The user asks for the own name. The user has not told it.",
            high="The user asks for the own name. I look for it earlier in this chat. The user has not told it. I say so.",
        ),
        ASK_UNTOLD,
        "not told",
    )
