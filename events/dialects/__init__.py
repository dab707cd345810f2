"""How an event is written on the wire, one module a dialect. Each decodes bytes to `events.model.Event`. Pure."""
