"""FLOPs, HLO costs, chips and profiles."""
