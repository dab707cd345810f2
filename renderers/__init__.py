"""A composition in, the files of its deployment bundle out.

Everything here is pure: values in, bytes out, no clock, no randomness, no environment, no files but the
package's own templates. Nothing here knows of events, buckets or the daemon.
"""
