"""Events from a model registry: their decoding, validation and delivery.

Decoding is pure: bytes in, an event or a list of problems out. `source` has the port for event
sources; the embedded journal implements it, and Kafka can. Nothing here depends on rendering.
"""
