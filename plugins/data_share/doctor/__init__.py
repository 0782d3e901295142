"""Checks of a deployment, one by one: what is wrong, and how to fix it."""
