"""What makes the graphs a server that lasts: threads kept on disk, a guard, keys, MCP; `palette studio`."""
