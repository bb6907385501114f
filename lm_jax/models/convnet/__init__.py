"""Convolutional networks for images: LeNet to ResNet."""
