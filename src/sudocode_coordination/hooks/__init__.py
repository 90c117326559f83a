"""Where agents and git meet the daemon: hooks of coding agents, and git's own. They start at every edit, and load little."""
