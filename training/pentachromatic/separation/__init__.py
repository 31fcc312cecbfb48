"""The dataset measured: do its communities differ, what is it about, does it hold the surveys' questions."""
