"""`coord bridge`: the shared document for JavaScript clients, over the y-websocket protocol on loopback."""
