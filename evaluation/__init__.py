"""Surveys, methods, metrics, tables: how well a palette speaks for a country."""
