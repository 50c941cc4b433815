"""Floor 2: objectives. Each turns blocks of tokens into loss terms, on the device."""
