"""Capitals of countries. Held out: wordings."""

# ruff: noqa: E501  (a wording stands on one line)

from __future__ import annotations

from random import Random

from gptoss_ray.demo_training.facts import CAPITALS, OTHER_NAMES, WITH_ARTICLE
from gptoss_ray.demo_training.turn import Reasoning, Turn
from gptoss_ray.demo_training.wording import Wordings, restyle

_CITY = "(capital|capital city)"
WORDINGS = Wordings(
    "capital wording",
    (
        "What is the capital of {c}?",
        "What is the capital of {c}?",
        f"(What is|What's|Whats|Which city is|Which is|What city is|What was again) the {_CITY} of {{c}}(?|)",
        f"(What is|What's) the {_CITY} (of|for) {{c}}(?|)",
        f"(Tell me|Give me|Name|Say|State|I need|I want to know|Please tell me|Please name|Remind me of|Look up|Find) the {_CITY} of {{c}}(.|)",
        f"(Can|Could|Would) you (tell me|name|give me|say) the {_CITY} of {{c}}?",
        f"(Do you know|Do you remember|Any idea|May I ask|I wonder|I forgot|Quiz me:|Question:|Do tell me) (what|which city) the {_CITY} of {{c}} is(?|.)",
        f"(Do you know|Do you remember|Can I ask you for|I am looking for|I'm looking for|Teach me) the {_CITY} of {{c}}(?|.)",
        f"{{c}}'s {_CITY}(?| is| please)",
        f"(What is|What's|Tell me|Name|Do you know) {{c}}'s {_CITY}(?|)",
        f"(Which|What) city is {{c}}'s {_CITY}?",
        f"{_CITY} of {{c}}(?|:|)",
        f"{_CITY}: {{c}}",
        f"{{c}}: {_CITY}(?|)",
        f"{{c}} {_CITY}(?|)",
        f"The {_CITY} of {{c}}(?| is| is?| is ...|)",
        f"(Which|What) city (serves as|is) the {_CITY} (of|in) {{c}}?",
        f"What is the name of the {_CITY} of {{c}}?",
        f"What is the {_CITY} of the country {{c}}?",
        f"What is the {_CITY} of the country (called|named) {{c}}?",
        f"How is the {_CITY} of {{c}} called?",
        f"What (do you call|is called) the {_CITY} of {{c}}?",
        f"(In|For) {{c}}, (what|which city) is the {_CITY}?",
        f"(I am travelling|I'm going|I am flying|We go|We travel) to {{c}}. (What|Which city) is (its|the) {_CITY}?",
        f"(My homework|A quiz|My daughter|My teacher|A friend) asks for the {_CITY} of {{c}}.",
        f"{{c}} has (which|what) {_CITY}?",
        f"{{c}} is a country. What is its {_CITY}?",
        f"(What is|Which is) the {_CITY} in {{c}}?",
        f"What {_CITY} does {{c}} have?",
        f"Where is the (government|{_CITY[1:-1].split('|', maxsplit=1)[0]}) of {{c}}?",
        f"(One|Quick|Short|Next|Last|Another|An easy) question: (what is the|the) {_CITY} of {{c}}(?|)",
        f"(And|And now|Now|Also|Next|Then) the {_CITY} of {{c}}(?|.|)",
        f"(And|And now|Now|Also) (what is|tell me|name) the {_CITY} of {{c}}(?|)",
        f"(I would like|I'd like|I want|I need) to (know|learn|hear) the {_CITY} of {{c}}.",
        f"(What|Which) (town|place|city) is the {_CITY} of {{c}}?",
        f"Is there a {_CITY} of {{c}}, and what is it?",
        f"(Say|Guess|So|Well|Tell me), what's the {_CITY} (of|in) {{c}}?",
        f"What's the name of the {_CITY} of {{c}}?",
    ),
)


def draw(rng: Random, *, held_out: bool) -> Turn:
    """Draw a country and a wording of the wanted side of the split."""
    country = rng.choice(tuple(CAPITALS))
    said = country
    if rng.random() < 0.06:
        said = rng.choice(tuple(OTHER_NAMES))
        country = OTHER_NAMES[said]
    capital = CAPITALS[country]
    article = "the " if country in WITH_ARTICLE else ""
    if said == country and article and rng.random() < 0.7:
        said = article + said
    question = restyle(rng, WORDINGS.pick(rng, held_out=held_out))
    if question.islower() and rng.random() < 0.8:
        said = said.lower()
    elif question.isupper():
        said = said.upper()
    fact = statement(country)
    reasoning = Reasoning(
        low=fact,
        medium=f"The user asks for a capital. {fact}",
        high=f"The user asks for a capital. I name the country and then its capital. {fact} I answer with {capital}.",
    )
    return Turn(
        "capitals",
        question.format(c=said),
        reasoning,
        f"The capital of {article}{country} is {capital}.",
        capital,
    )


def statement(country: str) -> str:
    """The fact as the analysis states it."""
    return f"Capital of {country}: {CAPITALS[country]}."
