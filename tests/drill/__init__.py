"""Faults on purpose, and whether the on-call is told the right thing."""
