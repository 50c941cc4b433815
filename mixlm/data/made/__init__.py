"""Made text: English-like sentences, minimal pairs and questions from a seed, whose right answers are known."""
