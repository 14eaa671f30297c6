"""A small shop with a database, a cache, limits, an upstream, and the mistakes of the field."""
