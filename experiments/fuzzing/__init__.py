"""What :mod:`experiments.fuzz` is made of: objects to damage, ways of damaging them, and who
watches while they are used."""
