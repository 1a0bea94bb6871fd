"""Bodies of the command line's commands, one file each; `cli.py` puts them together."""
