"""Between ranks: which rank holds an expert, and how tokens travel there and back."""
