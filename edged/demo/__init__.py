"""The whole loop as a story: real processes on this machine, narrated in the terminal."""
