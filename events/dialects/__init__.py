"""The wire formats of events, one module per format. Each decodes bytes to events. Pure."""
