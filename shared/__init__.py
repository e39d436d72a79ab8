"""What the processes share: settings, logs, metrics, borders to the servers, rules of the domain."""
