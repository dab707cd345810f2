"""The HTTP interface: event intake, health probes and metrics.

`app` combines `auth` (authorisation), `body` (limits of size and time), `intake` (validation and
journal), `health` (probes and metrics) and `problems` (error responses). `server` runs the app.
This package is slow to import, so only `daemon.service` imports it, when the daemon runs.
"""
