"""The gRPC methods that tell what is served and how it reads: models and tokens."""

# ruff: noqa: N802 (methods bear the names of their RPCs)

from __future__ import annotations

from abc import ABC, abstractmethod

from gptoss_ray.config import LimitsConfig
from gptoss_ray.protos.gptoss.v1 import models_pb2, tokenize_pb2
from gptoss_ray.serving.auth import ApiKeys
from gptoss_ray.serving.grpc_requests import detokenize_request, parsed, tokenize_request
from gptoss_ray.serving.grpc_rpc import Caller, unary
from gptoss_ray.serving.models import ModelCatalog, ServedModel
from gptoss_ray.serving.tokenization import detokenize, tokenize, tokenizer_info
from gptoss_ray.tracing import Tracer


class CatalogMethods(ABC):
    """`ModelService` and `TokenizeService`."""

    catalog: ModelCatalog
    api_keys: ApiKeys
    limits: LimitsConfig
    tracer: Tracer | None

    @abstractmethod
    def now(self) -> int:
        """Unix time in seconds."""

    @unary
    async def ListModels(
        self, _request: models_pb2.ListModelsRequest, _caller: Caller
    ) -> models_pb2.ListModelsResponse:
        """Tell the served models."""
        return models_pb2.ListModelsResponse(models=[await _model(model) for model in self.catalog])

    @unary
    async def GetModel(
        self, request: models_pb2.GetModelRequest, _caller: Caller
    ) -> models_pb2.GetModelResponse:
        """Tell one model, by its name or alias."""
        return models_pb2.GetModelResponse(model=await _model(self.catalog.find(request.name, param="name")))

    @unary
    async def Tokenize(
        self, request: tokenize_pb2.TokenizeRequest, _caller: Caller
    ) -> tokenize_pb2.TokenizeResponse:
        """Turn a prompt, or a chat, into tokens."""
        model = self.catalog.find(request.model or None)
        tokenized = await tokenize(await parsed(request, tokenize_request), model, created=self.now())
        token_ids = tokenized["tokens"]
        return tokenize_pb2.TokenizeResponse(
            token_ids=token_ids,
            tokens=map(model.encoding.token_bytes, token_ids) if request.return_tokens else (),
            max_context=model.max_context,
        )

    @unary
    async def Detokenize(
        self, request: tokenize_pb2.DetokenizeRequest, _caller: Caller
    ) -> tokenize_pb2.DetokenizeResponse:
        """Turn tokens into text."""
        model = self.catalog.find(request.model or None)
        text = await detokenize(await parsed(request, detokenize_request), model)
        return tokenize_pb2.DetokenizeResponse(text=text["prompt"])

    @unary
    async def GetTokenizerInfo(
        self, request: tokenize_pb2.GetTokenizerInfoRequest, _caller: Caller
    ) -> tokenize_pb2.GetTokenizerInfoResponse:
        """Tell the names of a model's control tokens."""
        info = tokenizer_info(self.catalog.find(request.model or None))
        return tokenize_pb2.GetTokenizerInfoResponse(
            tokenizer_class=info["tokenizer_class"],
            bos_token=info["bos_token"],
            eos_token=info["eos_token"],
            pad_token=info["pad_token"],
            max_context=info["model_max_length"],
        )


async def _model(model: ServedModel) -> models_pb2.Model:
    return models_pb2.Model(
        name=model.name,
        aliases=model.aliases,
        max_context=model.max_context,
        ready=await model.token_source.ready(),
        created=model.created,
    )
