"""Intake, health and metrics over HTTP.

`app` puts it together from `auth` (who may), `body` (how much, how long), `intake` (judge and append), `health`
(probes and metrics) and `problems` (every answer that is a refusal); `server` runs it on a socket of ours. Heavy to
import: only `daemon.service` does, when the daemon runs.
"""
