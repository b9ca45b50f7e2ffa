"""The layer between worldsim and the machine: files, processes, devices and random numbers."""
