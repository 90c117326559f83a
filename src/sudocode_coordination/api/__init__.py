"""What clients and the daemon say to each other: requests, events, and their encoding."""
