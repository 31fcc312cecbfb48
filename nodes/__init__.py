"""One file a node: an async function, state in, partial update out."""
