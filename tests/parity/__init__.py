"""Hold our numbers against the released program's."""
