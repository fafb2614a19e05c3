"""The line to the service: sessions, jobs, costs, secrets, recordings."""
