"""OpenAI's harmony chat format: text to tokens and back, without a model, Ray or the network."""
