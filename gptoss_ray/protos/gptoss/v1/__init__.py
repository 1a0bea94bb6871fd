"""Stubs generated from protos/ by `make proto`; not written by hand."""
