"""Plain functions on tensors; each is batch-invariant (law 1): a row's bits depend on that row alone."""
