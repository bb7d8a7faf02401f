"""HTTP: routes, middleware, wire formats, errors, metrics, logs, and the debug page."""
