"""Every decision, as synchronous machines without I/O: `Node.handle(input, now) -> effects`, `Node.deadline()`."""
