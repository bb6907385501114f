"""Count-based models: n-grams with Kneser-Ney and other smoothing."""
