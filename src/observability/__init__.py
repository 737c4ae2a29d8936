"""Logs, Prometheus metrics, OpenTelemetry traces, the event loop's watchdog."""
