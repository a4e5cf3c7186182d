"""One library function a command: each puts the rooms below to work on a run directory."""
