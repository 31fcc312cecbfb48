"""From prompts to served weights: dataset, adapters, merges, and the nano palette."""
