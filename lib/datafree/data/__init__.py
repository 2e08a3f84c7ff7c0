"""What networks are measured on: images with labels, from the repository, from torchvision or from a folder."""
