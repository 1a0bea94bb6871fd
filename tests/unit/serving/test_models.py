import pytest

from gptoss_ray.errors import ModelNotFoundError
from gptoss_ray.serving.models import ModelCatalog, ServedModel
from tests.support.ingresses import encoding
from tests.support.scripted_source import ScriptedSource


def model(name, *aliases, is_ready=True):
    source = ScriptedSource([], is_ready=is_ready)
    return ServedModel(name, encoding(), 600, encoding().vocab_size, source, aliases=aliases)


def test_a_model_is_found_by_its_name_and_aliases():
    small, large = model("openai/small", "small"), model("large")
    catalog = ModelCatalog([small, large])
    assert catalog.find("small") is catalog.find("openai/small") is small
    assert list(catalog) == [small, large]


def test_an_unknown_model_is_refused_with_those_that_are_served():
    with pytest.raises(ModelNotFoundError, match="openai/small, large") as caught:
        ModelCatalog([model("openai/small"), model("large")]).find("x" * 1000)
    assert len(caught.value.message) < 300


async def test_one_ready_model_is_enough():
    assert await ModelCatalog([model("a", is_ready=False), model("b")]).any_ready()
    assert not await ModelCatalog([model("a", is_ready=False)]).any_ready()
