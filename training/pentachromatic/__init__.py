"""The Pentachromatic dataset: a synthesis run read, gated, split by query, exported, described, published."""
