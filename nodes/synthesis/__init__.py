"""The steps of the synthesis, for one community: respond, feedback, aggregate, validate."""
