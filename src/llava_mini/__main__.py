"""`python -m llava_mini`: the command line, for launchers that start a module."""

from llava_mini.cli import main

main()
