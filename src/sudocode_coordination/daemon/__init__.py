"""The process of a clone: one task owns the node, a server answers clients on the socket."""
