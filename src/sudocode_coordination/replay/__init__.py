"""`coord replay`: what would have been foretold of merges that a repository's history has."""
