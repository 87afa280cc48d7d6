"""Recipes: one YAML file a system, read into frozen models whose fields are the documentation."""
