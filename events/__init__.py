"""What happened in a registry, and how it reaches us.

Decoding is pure (bytes in, event or a list of problems out); the journal and, later, Kafka are the adapters of
the port in `source`. Nothing here knows what a rendered bundle is.
"""
