"""Asks the running shop, and reads its log; tables of its metrics are those of the command line."""
