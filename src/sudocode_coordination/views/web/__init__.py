"""`coord ui`: a local web page that shows the swarm live, and its server."""
