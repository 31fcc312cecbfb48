"""`palette ui`: a page of our own, served by the LangGraph server beside its API."""
