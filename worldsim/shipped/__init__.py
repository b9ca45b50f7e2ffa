"""Policies by name: registered ones and saved agents, in the package or in a folder."""
