"""What people look at: views of the swarm, beside the command line."""
