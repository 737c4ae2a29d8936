"""What a team needs to operate the service: metrics, logs, limits. Knows no model."""
