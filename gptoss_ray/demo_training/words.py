"""Names, nouns and made-up words that the questions are filled with."""

from __future__ import annotations

from random import Random

from gptoss_ray.demo_training.split import is_held_out
from gptoss_ray.demo_training.vocabulary import word_pieces


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST_NAMES = _split(
    """
Aaron Abby Adam Aisha Akira Alan Albert Alex Alice Alma Amara Amir Amy Ana Andre Andrew Angela Anna
Anton Ari Arjun Arthur Astrid Ava Axel Barbara Beatrice Ben Bianca Bill Bob Boris Brian Bruno Camila
Carl Carla Carlos Carmen Carol Charles Chen Chloe Chris Clara Claude Clara Colin Cora Dana Daniel Daria
David Dawn Dennis Diana Diego Dmitri Dora Dylan Edgar Edith Edward Elena Eli Elif Elisa Ella Emil Emily
Emma Erik Esther Ethan Eva Evan Fatima Felix Fiona Florian Frank Frida Gabriel George Gina Giulia Grace
Greta Gustav Hana Hans Harold Harry Hassan Heidi Helen Henry Hiro Hugo Ian Ibrahim Ida Igor Ines Ingrid
Irene Iris Isaac Isabel Ivan Jack Jacob James Jan Jane Jasmine Jason Jean Jenny Joan Joel John Jonas
Jose Joseph Joshua Juan Judith Julia Julian Kai Karen Karim Karl Kate Keiko Kenji Kevin Kim Klaus Lara
Larry Laura Lea Leila Lena Leo Leon Liam Lily Linda Lisa Louis Luca Lucas Lucy Luis Luna Maia Marco
Maria Marie Mark Marta Martin Mary Matteo Max Maya Mei Mia Michael Miguel Mila Mina Mohamed Mona Nadia
Naomi Nathan Nelson Nina Noah Nora Olaf Olga Oliver Omar Oscar Otto Pablo Paul Paula Pedro Peter Petra
Pierre Priya Quentin Rachel Rafael Raj Ravi Rebecca Rita Robert Robin Rosa Ruth Ryan Sam Samir Sandra
Sara Sean Selma Simon Sofia Sonja Stefan Stella Sven Tara Tariq Ted Theo Thomas Tim Tina Tom Toni Ulrich
Uma Ursula Vera Victor Viola Walter Wanda Wei Will Xavier Yara Yasmin Yuki Yusuf Zara Zoe
"""
)

NOUNS = _split(
    """
weather forecast temperature humidity rainfall price stock discount invoice bill tax salary budget
balance account payment refund order parcel shipment delivery flight train bus taxi hotel room booking
reservation ticket seat menu recipe meal dish drink restaurant review rating score match team player
league game puzzle movie film song album playlist concert artist book author chapter page article news
headline blog comment message email letter contact phone address map route distance traffic parking
station airport harbor bridge street building office meeting calendar event reminder alarm timer task
project deadline schedule shift employee manager customer client supplier contract policy claim doctor
patient appointment medicine dose allergy diet calorie workout step heartbeat sleep school teacher
student lesson course grade exam homework library museum gallery painting photo video camera printer
server database backup log file folder document report chart table invoice password license key code
version release bug device sensor battery light lamp door window heater fan oven fridge robot drone
vehicle engine tire fuel charger plant flower tree garden farm animal dog cat horse bird fish insect
river lake mountain island beach forest desert planet star moon satellite rocket currency exchange loan
mortgage interest bank coin gold silver metal wood paper glass cloth shirt shoe hat size color shape
weight height length width speed pressure voltage frequency volume language word phrase translation
dictionary synonym spelling grammar poem quote joke riddle horoscope holiday birthday gift toy party
visitor guest member club vote survey poll tide sunrise sunset wind snow storm earthquake wave
"""
)

COMMON_WORDS = _split(
    """
the a one red blue green old new big small quick lazy brown happy sad cold warm dark light good bad long
short tall fox dog cat cow hen pig rat bee ant owl sun sky sea ice tea milk bread cheese butter sugar
salt rice soup cake apple pear plum grape lemon orange banana peach house tree river road car train ship
plane bike table chair lamp door wall book pen paper stone sand water fire wind rain snow day night week
month year time hand foot head eye ear king queen boy girl man woman child friend runs jumps sleeps eats
sings walks flies swims over under near from with into and but on in at by my your his her our we they
you she he it is was will can see saw go went come came make made like love
"""
)

ITEMS = tuple(
    (f"{singular}s", singular)
    for singular in _split(
        "apple pear dog cat star coin book car bird lemon tree cow cup hat key banana boat bee"
    )
)
"""Plural and singular of things that are counted."""

_ONSETS = _split(
    "b br c ch cl d dr f fl g gr h j k kl kr l m n p ph pr qu r s sh sk sl st t th tr v w x y z zh"
)
_VOWELS = _split("a e i o u a e i o u ai au ea ee ei ia io oo ou y")
_CODAS = _split("b ck d g k l ll m n nd ng nk r rd rk rn rt s sk ss st t th v x z")


def made_up_word(rng: Random, *, syllables: tuple[int, int] = (1, 2)) -> str:
    """A lower-case word: often pronounceable, often of pieces of the vocabulary, now and then random letters.

    The pieces matter: a token that no training chat holds could not be copied later.
    """
    style = rng.random()
    if style < 0.05:
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, 5)))
    if style < 0.55:
        first, later = word_pieces()
        start = rng.choice(first if rng.random() < 0.5 else later)
        return start + "".join(rng.choice(later) for _ in range(rng.randint(*syllables)))
    word = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.randint(*syllables)))
    return word + (rng.choice(_CODAS) if rng.random() < 0.6 or len(word) < 3 else "")


def name(rng: Random, *, held_out: bool) -> str:
    """A person's name of the wanted side of the split, real or (mostly, where it is trained) made up.

    Real names are few: trained alone they would be learned by heart instead of copied.
    """
    share_of_real = 0.8 if held_out else 0.2
    while True:
        text = rng.choice(FIRST_NAMES) if rng.random() < share_of_real else made_up_word(rng).capitalize()
        if is_held_out("name", text.lower()) == held_out:
            return text
