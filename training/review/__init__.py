"""The human review: answers shown to people, their decisions merged, measured and made a gate."""
