"""Paged KV: the tensors, the pool of blocks, block tables, and the prefix cache."""
