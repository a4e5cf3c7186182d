"""Where images lie: a module for each kind of container."""
