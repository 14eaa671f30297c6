"""Alert and recording rules for Prometheus: one module per family, generated into ``generated/``."""
