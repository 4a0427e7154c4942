"""The web page over `idanim.generator`."""
