"""What a model says to the questions of the chat page's tests, by a word in the question."""

from __future__ import annotations

from collections.abc import Sequence

from gptoss_ray.errors import InternalError, OverloadedError
from gptoss_ray.generation import GenerationRequest
from tests.support.ingresses import ANSWER, encoding, tokens
from tests.support.one_call import prompt_text
from tests.support.scripted_source import Endless, Step

MARKDOWN = """\
# Title

Some **bold**, *emphasis*, `code` and a [link](https://example.org/a).

1. one
   - inner
2. two

```python
def a_function_with_a_rather_long_name(argument_one: int, argument_two: int) -> int:
    return argument_one <= argument_two
```

| protocol | ordered | handshake | year | remark |
|---|:-:|--:|---|---|
| TCP | yes | 1 RTT | 1981 | reliable |

> Quoted.
"""
HOSTILE = """\
<script>window.pwned = 1; alert(1)</script>
<img src=x onerror="window.pwned = 2">
<svg onload="window.pwned = 3"><iframe src="javascript:parent.pwned = 4"></iframe>

[one](javascript:window.pwned=5) [two](data:text/html,<script>alert(2)</script>) ![three](https://evil.example/x.png)
[four](https://evil.example/"onmouseover="window.pwned=6) <https://evil.example/<b>>

```"><script>window.pwned = 7</script>
</code></pre><script>window.pwned = 8</script>
```

| <b>h</b> |
|---|
| <img src=y onerror=alert(3)> |
"""
WORD = encoding().encode(" word")[0]


def final(text: str, thought: str = "17 and 25.") -> str:
    """Return the markup of an answer."""
    return (
        f"<|channel|>analysis<|message|>{thought}<|end|>"
        f"<|start|>assistant<|channel|>final<|message|>{text}<|return|>"
    )


def call(name: str, arguments: str) -> str:
    """Return the markup of a call."""
    return (
        "<|channel|>analysis<|message|>Look it up.<|end|><|start|>assistant<|channel|>commentary "
        f"to=functions.{name} <|constrain|>json<|message|>{arguments}<|call|>"
    )


SCRIPTS: dict[str, Sequence[Step]] = {
    "weather": tokens(call("get_weather", '{"city":"Paris"}')),
    "hostile": tokens(final(HOSTILE, "<script>window.pwned = 9</script><img src=z onerror=alert(4)>")),
    "nasty": tokens(call("get_weather", '{"city":"<img src=x onerror=alert(5)>"}')),
    "markdown": tokens(final(MARKDOWN)),
    "silent": [*tokens("<|channel|>final<|message|>Count"), Endless()],
    "endless": [*tokens("<|channel|>final<|message|>Count"), Endless(WORD, pause_s=0.01)],
    "think": [*tokens("<|channel|>analysis<|message|>Hmm"), Endless()],
    "refuse": [OverloadedError("The queue is full.", retry_after_s=3)],
    "break": [*tokens("<|channel|>final<|message|>Half an"), InternalError("secret")],
}


def answer(request: GenerationRequest) -> Sequence[Step]:
    """Answer the last question by its word, or from a call's result."""
    asked = prompt_text(request).rpartition("<|start|>user<|message|>")[2]
    if "<|start|>functions." in asked:
        return tokens(final("It is **18 degrees**.", "The function has answered."))
    return next((script for word, script in SCRIPTS.items() if word in asked), tokens(ANSWER))
