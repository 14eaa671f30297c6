"""Profiles on demand: who may ask for one, what records it, where it is kept, how it is shown."""
