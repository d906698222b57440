"""`blindsum doctor`: what on this machine would make a run fail, and how to mend it."""
