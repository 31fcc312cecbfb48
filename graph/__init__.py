"""The graph: state, context, all wiring, and the variants of the paper."""
