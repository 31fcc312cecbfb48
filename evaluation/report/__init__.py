"""From run folders to tables, figures and a page. Reads files only; never calls a model."""
