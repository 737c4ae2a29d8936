"""Logs, Prometheus metrics, OpenTelemetry traces, the watchdog of the event loop."""
