"""Live views of the swarm for people: what they show is in `state.py`, how it is drawn beside it."""
