"""The gpt-oss network: pure functions of (weights, ForwardBatch, KV cache)."""
