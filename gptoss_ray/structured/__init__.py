"""Structured output: what a request demands as one grammar, and which tokens that grammar allows next."""
