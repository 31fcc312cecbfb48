"""The small palette: a real language model of 135 million weights, and a dataset of our own."""
