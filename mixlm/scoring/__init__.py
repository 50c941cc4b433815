"""Floor 4: what text and minimal pairs cost a trained network, in every mode that it has."""
