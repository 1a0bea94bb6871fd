"""The models that an ingress serves, found by name or alias."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from gptoss_ray.errors import ModelNotFoundError
from gptoss_ray.generation import SamplingParams
from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.serving.token_source import TokenSource


@dataclass(frozen=True)
class ServedModel:
    """All that the ingress knows of one model.

    Attributes:
        name: The id shown to clients; may contain `/`.
        encoding: The checkpoint's vocabulary.
        max_context: Tokens of prompt and output together.
        vocab_size: Every prompt token id lies below it.
        token_source: Makes the tokens.
        aliases: Other names that clients may use.
        default_sampling: Values of the sampling fields that a client left out; gpt-oss recommends
            temperature and top_p of 1.
        created: Unix time in seconds, shown in the list of models.
    """

    name: str
    encoding: HarmonyEncoding
    max_context: int
    vocab_size: int
    token_source: TokenSource
    aliases: tuple[str, ...] = ()
    default_sampling: SamplingParams = field(default_factory=SamplingParams)
    created: int = 0


class ModelCatalog:
    """Finds a served model by name or alias."""

    def __init__(self, models: Iterable[ServedModel]) -> None:
        self._models = tuple(models)
        self._by_name = {name: model for model in self._models for name in (model.name, *model.aliases)}

    def __iter__(self) -> Iterator[ServedModel]:
        """Yield each model once, in the order of the configuration."""
        return iter(self._models)

    def find(self, name: str | None, *, param: str = "model") -> ServedModel:
        """Return the model called `name`, or the first where none is named; `param` is the field that does.

        Raises:
            ModelNotFoundError: There is none of that name; the message tells those that are served.
        """
        if name is None:
            return self._models[0]
        model = self._by_name.get(name)
        if model is None:
            served = ", ".join(model.name for model in self._models)
            raise ModelNotFoundError(
                f"The model {name[:128]!r} is not served here; use one of: {served}.", param=param
            )
        return model

    async def any_ready(self) -> bool:
        """Return whether at least one model can serve a request now."""
        for model in self._models:
            if await model.token_source.ready():
                return True
        return False
