"""PackedIdentity: which checkpoint packed weights were made of, and how."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from gptoss_ray.checkpoint.reader import CheckpointReader


@dataclass(frozen=True)
class PackedIdentity:
    """Whatever the bytes of packed weights depend on; others never meet them.

    Attributes:
        checkpoint: Its folder, for people; a moved checkpoint is still the same.
        fingerprint: Of the checkpoint's contents.
        packing_version: Of the layout that the kernels read.
        dense_format: Of the weights outside the experts.
    """

    checkpoint: str
    fingerprint: str
    packing_version: str
    dense_format: str

    @classmethod
    def of(cls, reader: CheckpointReader, *, packing_version: int | str, dense_format: str) -> PackedIdentity:
        """Identify what is packed from a checkpoint; CheckpointError if it cannot be read."""
        folder = str(reader.folder.absolute())
        return cls(folder, reader.fingerprint(), str(packing_version), dense_format)

    @property
    def digest(self) -> str:
        """A hash (hex) of all but the checkpoint's place."""
        key = json.dumps([self.fingerprint, self.packing_version, self.dense_format])
        return hashlib.sha256(key.encode()).hexdigest()
