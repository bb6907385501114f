"""FLOPs, memory and traffic of a model, counted from shapes, jaxprs and compiled programs."""
