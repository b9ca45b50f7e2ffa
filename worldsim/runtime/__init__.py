"""What stands between worldsim and the machine: files, memory limits, what a file may name."""
