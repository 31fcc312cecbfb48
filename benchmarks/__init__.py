"""Side-by-side measurements: each a module with `--json`, each a ratio against a named rival in one run."""
