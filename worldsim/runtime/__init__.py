"""What stands between worldsim and the machine: files, processes, devices, random numbers, what a
file may name."""
