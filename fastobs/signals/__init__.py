"""What is told about an exchange.

A signal is a callable: given the exchange that begins, it answers with a callable that wants to know
its end, or with nothing. What is interested in the end only is such a callable itself. Signals do not
know each other.
"""
