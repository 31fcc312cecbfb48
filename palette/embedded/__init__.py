"""The in-process engine: real models without a server, and the nano palette's weights."""
