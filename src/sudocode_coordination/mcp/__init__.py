"""`coord mcp`: the coordination of this clone as a server of the Model Context Protocol, on standard input and output."""
