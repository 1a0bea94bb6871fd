"""Greetings, and everything else that the demo model cannot do and says so. Held out: wordings."""

# ruff: noqa: E501  (a wording stands on one line)

from __future__ import annotations

from random import Random

from gptoss_ray.demo_training.facts import CAPITALS
from gptoss_ray.demo_training.skills.functions import is_held_out_topic
from gptoss_ray.demo_training.turn import Reasoning, Turn
from gptoss_ray.demo_training.wording import Wordings, restyle
from gptoss_ray.demo_training.words import COMMON_WORDS, NOUNS, made_up_word, name

INTRODUCTION = "Hello! I am a small demo model. Ask me for a sum, a capital, a count, or a name you told me."
REFUSAL = (
    "I am sorry, I am only a small demo model. Ask me for a sum, a capital, a count, or a name you told me."
)
WELCOME = "You are welcome! I am a small demo model."

GREETINGS = Wordings(
    "greeting",
    (
        "(Hi|Hello|Hey)(!|.|)",
        "(Hi|Hello|Hey|Good morning|Good evening|Good day|Hi there|Hello there|Howdy|Greetings|Hallo|Yo|Hey there)(!|.||, how are you?| my friend| :))",
        "(Who|What) are you(?|)",
        "(What|Which things) can you (do|answer)(?| for me?|)",
        "(How are you|How do you do|What's up|Are you there|Anybody there|Are you a robot|Are you an AI|Are you human|Are you ChatGPT)(?|)",
        "(Introduce yourself|Tell me about yourself|What is your name|What's your name|Who made you|Which model are you|What model is this|Help|help me|test|testing|ping|What is this)(.|?||!)",
        "(How can you help me|What do you know|What should I ask|What may I ask you|How does this work|Can you help me)(?|)",
    ),
)
THANKS = Wordings(
    "thanks",
    (
        "(Thanks|Thank you|Thank you very much|Thanks a lot|Great, thanks|Perfect, thank you|Many thanks|Cheers|thx)(!|.|)",
        "(Great|Good|Nice|Perfect|Cool|Well done|Very good|Awesome|Bye|Goodbye|See you|Good night|Ok|Okay|Fine)(!|.|)",
    ),
)
ELSEWHERE = Wordings(
    "off topic",
    (
        "(Write|Compose|Make|Create|Give me) (a|an|me a|some) (poem|story|song|joke|essay|haiku|letter|email|report|speech|summary|tweet|blog post) (about|on|for) (the |my |a |){n}(.|)",
        "(Tell|Read|Sing) me (a|another|one) (joke|story|riddle|fairy tale|poem|secret|song)(.|)",
        "(Translate|Please translate|Can you translate) ('{t}'|{t}|\"{t}\"|this: {t}) (to|into) (French|German|Spanish|Italian|Japanese|Chinese|Latin)(.|?|)",
        "(Explain|Please explain|Can you explain|Describe|Define|Discuss) (quantum physics|relativity|gravity|democracy|photosynthesis|recursion|inflation|blockchain|evolution|{n}|the {n}|how {n}s work)(.|?| to me.| in simple words.)",
        "(How|Why) (do|does|did|can|should) (I|you|we|people|a {n}|the {n}|birds|cars) (fix|fly|work|bake|clean|build|learn|use|make|need|repair|sell|grow) (a {n}|the {n}|{n}s|this|it|bread)(?|)",
        "(Who) (is|was) the (president|king|queen|prime minister|inventor|author|director|founder|winner|first man|best player) of (the {n}|{c}|the telephone|Hamlet|Google|the world cup|{m})(?|)",
        "(Who) (wrote|invented|painted|discovered|won|directed|built) (the {n}|Hamlet|the Mona Lisa|America|penicillin|the war|Faust|{m})(?|)",
        "(When|Where) (is|was|did|does|will) (the {n}|{m}|the war|Easter|{c}|Napoleon|the next {n}) (start|end|born|happen|found|open|die|arrive)(?|)",
        "(What|How) (is|was|about) (the weather|the temperature|the time|the date|the news|today's date|the day) (today|in {c}|in {m}|now|tomorrow|there|)(?|)",
        "What time is it( now| in {c}|)(?|)",
        "What (day|year|month|date) is (it|today)(?|)",
        "(What is|How much is|Calculate|Compute|What's) {x} (*|times|multiplied by|/|divided by|modulo|to the power of|x|^|%) {y}(?|)",
        "{x} (*|x|times|/|:|^|**|divided by) {y}( =|?|)",
        "(What is|Calculate|What's|Compute) (the square root of|the square of|the factorial of|half of|double|twice|the cube of|a third of|log) {x}(?|)",
        "(What is|How much is|Compute|) {z} (+|-|plus|minus) {y}(?|)",
        "(What is|How much is|Compute|) {x} (+|-|plus|minus) {z}(?|)",
        "(What is|Tell me|How large is|What was) the (population|area|currency|language|flag|president|king|history|time zone|national dish|food|climate|largest city|size|religion|anthem) (of|in) {c}(?|)",
        "(What is|Tell me|What's|Name) the capital of {m}(?|)",
        "(What is|Tell me|What's|Name) the capital of (Texas|Bavaria|California|Africa|Europe|Asia|Scotland|Wales|Quebec|Florida|the moon|the world|Mars|Atlantis|Narnia|Mordor|Tuscany|Sicily|Alaska|Hawaii|Ontario)(?|)",
        "(Recommend|Suggest|Find|Book|Buy|Order|Show) (me |)(a|some|the best) {n}(s|) (for|near|in|with|from) (me|{c}|my friend|tonight|{m}|home)(.|?|)",
        "(Can|Could|Would|Will) you (please |)(write|read|draw|cook|drive|play|sing|help|fix|send|call|open|buy|google|program|code|check) (me |)(a {n}|the {n}|my {n}|something|python|some code|this)(?|)",
        "(Write|Show me|Give me|Create) (a |some |the )(python|java|javascript|C|SQL|bash|rust|html) (function|code|program|script|query|class|page) (for|that sorts|to read|that prints|with) (a list|{n}s|a {n}|hello world|the {n})(.|)",
        "(I think|I believe|I feel|I know|People say|They say) (that |)(the {n}|my {n}|life|it|{m}|love) (is|was|looks|feels) (good|bad|old|new|nice|strange|too small|sad|happy|broken)(.|)",
        "(I|We|They) (like|love|hate|want|need|lost|found|bought|saw|miss) (a {n}|the {n}|my {n}|{n}s|you|this)(.|!|)",
        "(My|Your|The|This) {n} (is|was|looks|feels|seems) (broken|too slow|great|very old|sick|cold|empty|lost|{w})(.|. What should I do?|. Why?|)",
        "(Is|Are|Was|Does|Do|Did|Has) (the {n}|{n}s|{m}|it|there life on Mars|god|my {n}) (real|good|healthy|dangerous|open|alive|expensive|better|true|like {n}s)(?|)",
        "(Which|What) (is|was) (better|bigger|faster|older|the best|more expensive|your favourite|the meaning of)(,| |: )({n} or {w}|a {n} or a {w}|{n}|life|the {n}|color|film)(?|)",
        "(What|Who) is (a |an |the |){n}(?|)",
        "(What|Who) is {m}(?|)",
        "(What|Who|Why|When|Where|How) {w} {n} {w}(?|)",
        "(Should|May|Can|Must) I (buy|sell|eat|drink|visit|marry|trust|use|read) (a {n}|the {n}|{m}|{c}|this {n}|it|him)(?|)",
        "(Spell|Reverse|Rhyme|Sort|Shuffle|Repeat|Capitalize|Encrypt) (the word |the list |this: |){w}( {w}| {n}|)(.|)",
        "(What rhymes with|What is another word for|What is the opposite of|What is the plural of|How do you spell|How do you say|How do you pronounce) {w}(?|)",
        "(How many) (people|days|hours|meters|states|planets|legs|moons|letters|grams|countries|bones) (are|live|has|are there|does it take) (in|on|for|a|the) (a year|{c}|the {n}|a {n}|the world|Europe|{m})(?|)",
        "(How) (old|tall|big|far|long|heavy|fast|deep|expensive|high) is (the {n}|{m}|{c}|the sun|a {n}|the Eiffel tower|my {n}|Mount Everest|your {n})(?|)",
        "{w} {w} {n} {w}",
        "{m} {m}(?|)",
        "{m}",
        "{n}(?|)",
        "(Do you|Can you|Will you|Did you) (love|like|know|eat|see|dream|sleep|understand|feel|hear|remember) (me|{n}s|the {n}|{m}|music|pain|anything|{c})(?|)",
        "(Summarize|Rewrite|Correct|Improve|Shorten|Continue|Classify|Analyse) (this|the following|my|this text|this {n}|the article)(:|: {t}|: {w} {w} {w}|.)",
        "(What do you think|What is your opinion|Tell me something|Tell me more|Give me facts|Give me news|Talk|Let us talk|Teach me something) (about|on) (the {n}|{c}|{m}|politics|love|football|{n}s|yourself and {n}s)(.|?|)",
    ),
)


def draw(rng: Random, *, held_out: bool) -> Turn:
    """Draw a greeting, thanks, or, mostly, a request for something else."""
    style = rng.random()
    if style < 0.22 and not held_out:
        return _greeting(rng)
    if style < 0.30 and not held_out:
        return _thanks(rng)
    return draw_elsewhere(rng, held_out=held_out)


def draw_elsewhere(rng: Random, *, held_out: bool) -> Turn:
    """Draw a request for something that was never taught."""
    wording = restyle(rng, ELSEWHERE.pick(rng, held_out=held_out))
    words = {
        "n": _noun(rng, held_out=held_out),
        "w": rng.choice(COMMON_WORDS),
        "m": name(rng, held_out=False),
        "c": rng.choice(tuple(CAPITALS)),
        "t": " ".join(rng.choice(COMMON_WORDS) for _ in range(rng.randint(2, 5))),
        "x": rng.randrange(100),
        "y": rng.randrange(100),
        "z": rng.randrange(101, 2000),
    }
    return refusal(wording.format(**words))


def _noun(rng: Random, *, held_out: bool) -> str:
    """Not trained: what held-out functions are about, which would be learned as something to refuse."""
    while True:
        noun = rng.choice(NOUNS) if rng.random() < 0.8 else made_up_word(rng)
        if held_out or not is_held_out_topic(noun):
            return noun


def refusal(question: str) -> Turn:
    """The polite answer to a request for something that was never taught."""
    reasoning = Reasoning(
        low="Not a skill of mine.",
        medium="The user asks for something that I was not taught. I say that I am a demo.",
        high="The user asks for something that I was not taught. It is no sum, no capital, no count, no name and no "
        "function. I say politely that I am a demo.",
    )
    return Turn("small_talk", question, reasoning, REFUSAL, "demo model")


def _greeting(rng: Random) -> Turn:
    reasoning = Reasoning(
        low="A greeting.",
        medium="The user greets me or asks who I am. I introduce myself.",
        high="The user greets me or asks who I am. I introduce myself as a demo and say what I can do.",
    )
    question = restyle(rng, GREETINGS.any(rng))
    return Turn("small_talk", question, reasoning, INTRODUCTION, "demo model")


def _thanks(rng: Random) -> Turn:
    reasoning = Reasoning(
        low="Thanks.",
        medium="The user thanks me or says goodbye. I answer politely.",
        high="The user thanks me or says goodbye. There is nothing to work out. I answer politely.",
    )
    return Turn("small_talk", restyle(rng, THANKS.any(rng)), reasoning, WELCOME, "demo model")
