"""What a configuration can say, its JSON form, and its validation."""
