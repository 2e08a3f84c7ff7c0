"""What is compressed: networks by name, their blocks and their trained weights."""
