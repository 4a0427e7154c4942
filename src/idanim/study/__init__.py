"""Studies: variants of a training recipe × seeds, trained, evaluated on one grid and compared."""
