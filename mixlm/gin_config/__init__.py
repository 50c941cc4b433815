"""From gin files and flags to a Recipe; the only folder that imports gin."""
