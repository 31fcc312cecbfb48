"""A method made of them, for Python and for a table:

python examples/own_node/method.py KEN "What do people eat at a wedding?"
PYTHONPATH=examples/own_node palette evaluate surveys --method method:quoted ...
"""

import sys

from quoted import quote, two_takes

import cultural_palette as cp
from cultural_palette.graph.build import PaletteGraph


def quoted() -> PaletteGraph:
    """The palette with both nodes in it; all else as it is."""
    return cp.build(draft=two_takes, regulate=quote, name="quoted")


if __name__ == "__main__":
    country, question = sys.argv[1:]
    answer = cp.Answer.from_state(quoted().invoke({"country": country, "query": question}))
    print(answer.account)
    print("->", answer.answer)
