"""What all ingress replicas of an application have measured, asked by the one that is asked.

Serve's proxy hands a scrape to any of them: if each told only of itself, every counter would seem to fall and
rise at random.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client.metrics_core import Metric
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

logger = logging.getLogger(__name__)

TIMEOUT_S = 3.0


@dataclass(frozen=True)
class Measured:
    """What one ingress replica has measured."""

    ingress: str
    families: Sequence[Metric]


class IngressPeers:
    """The replicas of the deployment that this process is a replica of, itself among them."""

    def __init__(self) -> None:
        self._handle: DeploymentHandle[Any] | None = None

    async def measured(self, own: Measured) -> dict[str, Sequence[Metric]]:
        """Call `own_measured` of each; those that do not answer are left out, but for `own`."""
        families = {own.ingress: own.families}
        try:
            answers = await self._ask()
        except (RayError, RayServeException, TimeoutError, asyncio.TimeoutError) as error:
            logger.warning("peers_unheard error=%s", type(error).__name__)
            return families
        heard = [answer for answer in answers if isinstance(answer, Measured)]
        return families | {answer.ingress: answer.families for answer in heard}

    async def _ask(self) -> list[Any]:
        if self._handle is None:
            context = serve.get_replica_context()
            self._handle = serve.get_deployment_handle(context.deployment, context.app_name)
        asked = self._handle.broadcast("own_measured")
        return await asked.results_async(timeout_s=TIMEOUT_S, return_exceptions=True)
