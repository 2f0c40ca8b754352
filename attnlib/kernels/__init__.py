"""The loop, given to compilers: each rung leaves less of it to Python."""
