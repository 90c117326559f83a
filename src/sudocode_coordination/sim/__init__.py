"""The same ports in a seeded world with a virtual clock: network, git remote, disk."""
