"""hyperd: wiring (the only place that names concrete classes), listeners, life cycle."""
