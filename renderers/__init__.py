"""Renders a composition into the files of its deployment bundle, and checks the result.

Everything here is pure: values in, bytes out. There is no clock, no randomness and no environment,
and the only files read are the package's templates. Nothing here depends on events, buckets or the
daemon.
"""
