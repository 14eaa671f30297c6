"""Grafana boards from the catalogue: a module per family gives panels, `boards` composes them."""
