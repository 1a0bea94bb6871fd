"""Ray actors that hold a model: one engine per rank, one step loop per engine."""
