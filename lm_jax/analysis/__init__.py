"""What happens inside a trained model: attention maps, next tokens, embeddings, mistakes."""
