"""The loop after each scan: a service that starts jobs, and believes nothing but what they left on disk."""
