"""The `coord` command: arguments become a request, the answer is shown."""
