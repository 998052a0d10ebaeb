"""The command line: parse, call one workflow, print. May import everything below it; holds no logic."""
