"""What fastobs costs, beside bare FastAPI and beside its peers. Run it: ``python -m benchmarks``."""
