"""Trains the demo model that ships in the package: data, network, training loop, export."""
