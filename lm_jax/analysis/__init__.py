"""What happens inside a trained model."""
